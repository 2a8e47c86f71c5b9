"""What the document can't say of a call, for scripts/schemathesis."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """Text as it is; what is wrong on purpose is no text, and its Python spelling no JSON."""
    return str(value).encode("utf-8", "surrogatepass")


def blank(value):
    """Whether the service gets an empty parameter for it: the last of several, and of an object the names, are sent."""
    if isinstance(value, (dict, list, tuple)):
        values = list(value)
        return not values or blank(values[-1])
    return value in ("", None)


@schemathesis.hook
def filter_query(context, query):
    """An empty parameter counts as absent, so it is never a wrong one."""
    return not any(blank(value) for value in (query or {}).values())


@schemathesis.hook
def before_call(context, case, kwargs):
    """Makes a call that the document allows one that the service can serve. Those that are to be refused stay."""
    if not case.meta or not case.meta.generation.mode.is_positive:
        return
    body, query = case.body, case.query or {}
    # A ready vector has as many numbers as the model, which is chosen by the configuration.
    if isinstance(body, dict) and isinstance(body.get("embedding"), list):
        case.body = {name: value for name, value in body.items() if name != "embedding"}
    # Many minutes in small steps would be too many points.
    if case.path.endswith("/history") and "minutes" in query and "step" in query:
        case.query = {name: value for name, value in query.items() if name != "step"}
    # No stranger is told of made-up recommendations.
    if case.path.startswith("/api/webhooks") and isinstance(case.body, dict) and isinstance(case.body.get("url"), str):
        case.body = {**case.body, "url": "https://webhook.invalid/"}
