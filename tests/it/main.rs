mod broker_conformance;
mod broker_properties;
