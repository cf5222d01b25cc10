#!/usr/bin/env python3
"""make_corpus.py  English text under free licences, from Debian's documentation packages, for the recipes in this folder.

    python3 examples/training/make_corpus.py -o examples/training/data [--max-mb 170]

Fetches the packages with `apt-get download` and unpacks them with `dpkg -x` into a temporary folder: nothing is installed. HTML,
reStructuredText, POD, man pages, DocBook-like XML and dictionaries become plain paragraphs; a paragraph that was seen before is dropped, and so is
a document that is not English prose. One document in a hundred, chosen by a hash of its path, is held out.

Writes train-NN.xz and heldout.xz (documents in UTF-8, a zero byte after each), and corpus.json: packages, versions, licences, documents and bytes.
Needs only Python and Debian's apt and dpkg; two processes take about two minutes.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import gzip
import hashlib
import html
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What the text is made of; main/ of Debian 12, so all of it is free to use, change and pass on. corpus.json quotes each package's licence names.
PACKAGES = """
linux-doc-6.1 python3.11-doc perl-doc dict-gcide dict-wn dict-foldoc dict-jargon dict-devil gnome-user-docs libreoffice-help-en-us postgresql-doc-15
python-django-doc python-sqlalchemy-doc sphinx-doc apache2-doc anarchism fortunes debian-handbook debian-reference-en
developers-reference git-doc cmake-doc llvm-14-doc octave-doc maxima-doc gap-doc manpages manpages-dev swi-prolog-doc erlang-doc python-sympy-doc
python-statsmodels-doc python-astropy-doc python-scipy-doc python-pandas-doc vim-doc zsh-doc postfix-doc exim4-doc-html bind9-doc
gimp-help-en lilypond-doc-html r-doc-html cppreference-doc-en-html libgtk-4-doc debian-faq harden-doc
ansible python-werkzeug-doc python-flask-doc python-tornado-doc
""".split()

HTML = {".html", ".htm", ".xhtml", ".xhp", ".page", ".xml"}
TEXT = {".txt", ".rst", ".pod", ".md", ".tex", ".texi", ".en"}
SKIP_PATH = re.compile(
    r"(genindex|searchindex|/_static/|/search\.html|modindex|/copyright$|changelog|\.js$|\.css$|licen[cs]e"
    r"|/(ar|bg|ca|cs|da|de|el|es|eu|fa|fi|fr|gl|gu|he|hi|hr|hu|id|it|ja|kn|ko|lt|lv|mr|nb|nl|nn|pa|pl|pt|pt[-_]BR|pt-br|ro|ru|sk|sl|sr|sr@latin|sv|ta|te|th|tr|uk|vi|zh[-_]?\w*)/"
    r"|\.(ar|ca|cs|da|de|el|es|fi|fr|hu|it|ja|ko|nb|nl|pl|pt|pt-br|ro|ru|sv|tr|uk|vi|zh-?\w*)(\.utf-?8)?(\.html|\.xml|\.txt|\.gz)*$)",
    re.I,
)
DROP = re.compile(r"<!--.*?-->|<(script|style|head|nav|footer|svg|math|form|object)\b.*?</\1\s*>", re.S | re.I)
CODE = re.compile(r"<pre\b[^>]*>(.*?)</pre\s*>", re.S | re.I)
BREAK = re.compile(r"</?(p|div|h[1-6]|li|ul|ol|dl|dt|dd|tr|table|section|article|blockquote|br|hr|title|para|item|note|paragraph|body|td|th)\b[^>]*>", re.I)
TAG = re.compile(r"<[^>]{0,2000}>")
SPACES = re.compile(r"[ \t\r\f\v\u00a0]+")
WORD = re.compile(r"[A-Za-z]+")
COMMON = frozenset(
    "the of to and a in is that for it as was with be by on not or are this which at from have an he his they you but can if will one all when there "
    "its their more has other use used may than no".split()
)


def from_html(raw: str) -> str:
    raw = DROP.sub(" ", raw)
    raw = CODE.sub(lambda m: "\n\n" + TAG.sub("", m[1]).replace("\n", "\x01") + "\n\n", raw)
    raw = re.sub(r"\s+", " ", raw)
    raw = TAG.sub("", BREAK.sub("\n\n", raw))
    return html.unescape(raw).replace("\x01", "\n").replace("\u00b6", "")


def from_man(raw: str) -> str:
    lines = []
    for line in raw.split("\n"):
        if line.startswith((".\\\"", "'\\\"", ".TH", ".nf", ".fi", ".ie", ".el", ".if", ".de", ".ds")):
            continue
        if line.startswith((".SH", ".SS", ".PP", ".P", ".TP", ".IP", ".LP", ".HP")):
            lines += ["", re.sub(r"^\.\w+ ?", "", line)]
            continue
        line = re.sub(r"^\.[A-Z]{1,2} ?", "", line)
        lines.append(re.sub(r"\\(f[A-Z]|f\(..|s[-+]?\d|&|/|,)", "", line).replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\"))
    return "\n".join(lines)


def read(path: Path) -> str | None:
    """The plain text of a file; None for a file of another kind."""
    name = path.name.lower()
    zipped = name.endswith((".gz", ".dz"))
    stem = name[:-3] if zipped else name
    suffix = os.path.splitext(stem)[1]
    man = re.search(r"\.[1-8](pm|perl|posix)?$", stem)
    dictionary = stem.endswith(".dict")
    if not (suffix in HTML or suffix in TEXT or man or dictionary or (suffix == "" and "/fortunes/" in str(path))):
        return None
    data = path.read_bytes() if not zipped else gzip.open(path).read()
    if b"\0" in data[:4096] or len(data) > 60 << 20:
        return None
    raw = data.decode("utf-8", "ignore")
    if suffix in HTML:
        return from_html(raw)
    if dictionary:  # an entry starts at the left edge
        return re.sub(r"\n(?=\S)", "\n\n", raw)
    return from_man(raw) if man else raw


def clean(text: str) -> list[str]:
    """Paragraphs: spaces made single, lines of one paragraph joined where they are prose."""
    out = []
    for block in re.split(r"\n[ \t]*\n+", text.replace("\r", "")):
        lines = [SPACES.sub(" ", line).strip() for line in block.split("\n")]
        lines = [line for line in lines if line]
        if not lines:
            continue
        if sum(len(line) for line in lines) / len(lines) > 45:  # filled text, not code or a table
            lines = [" ".join(lines)]
        out.append("\n".join(lines))
    return out


def is_english(text: str) -> bool:
    words = WORD.findall(text[:20000])
    if len(words) < 40:
        return False
    share = sum(w.lower() in COMMON for w in words) / len(words)
    letters = sum(map(len, words)) / max(1, len(text[:20000]))
    return share > 0.17 and letters > 0.6


def documents(package: str, folder: Path) -> list[tuple[str, str]]:
    """(path, text) of each document; a long one (a dictionary) is cut into pieces of about 16 KB at paragraphs."""
    found = []
    for path in sorted(folder.rglob("*")):
        relative = "/" + str(path.relative_to(folder))
        if not path.is_file() or path.is_symlink() or SKIP_PATH.search(relative):
            continue
        try:
            text = read(path)
        except (OSError, EOFError):
            continue
        if not text:
            continue
        piece, size, n = [], 0, 0
        for paragraph in clean(text) + [None]:
            if paragraph is not None:
                piece.append(paragraph)
                size += len(paragraph)
            if piece and (paragraph is None or size > 16000):
                whole = "\n\n".join(piece)
                if is_english(whole):
                    found.append((f"{package}{relative}#{n}", whole))
                piece, size, n = [], 0, n + 1
    return found


def licences(folder: Path, package: str) -> list[str]:
    path = folder / "usr/share/doc" / package / "copyright"
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return ["see the package's source"]
    names = collections.Counter(re.findall(r"^License: *(.+)$", text, re.M))
    if not names:  # a copyright file without fields: the names of the licences it mentions
        names = collections.Counter(re.findall(r"GPL|LGPL|GFDL|FDL|BSD|MIT|Apache|Artistic|CC-BY-SA|Creative Commons|public domain|PSF|WordNet", text, re.I))
    return [name.strip() for name, _ in names.most_common(6)] or ["see its copyright file"]


def take(package: str, folder: str) -> tuple[dict, list[tuple[str, str]]]:
    """Fetches and reads one package; runs in its own process."""
    where = Path(folder) / package
    where.mkdir()
    got = subprocess.run(["apt-get", "download", "-qq", package], cwd=where, stderr=subprocess.PIPE, text=True)
    debs = list(where.glob("*.deb"))
    if got.returncode or not debs:
        return {"package": package, "error": got.stderr.strip().splitlines()[-1:] or "not found"}, []
    subprocess.run(["dpkg", "-x", str(debs[0]), str(where / "x")], check=True)
    found = documents(package, where / "x")
    version = debs[0].name.split("_")[1].replace("%3a", ":")
    info = {"package": package, "version": version, "licences": licences(where / "x", package), "read_bytes": sum(len(t) for _, t in found)}
    shutil.rmtree(where)
    return info, found


def pack(job: tuple[str, list[str]]) -> tuple[str, int]:
    path, texts = job
    data = b"".join(text.encode() + b"\0" for text in texts)
    packed = lzma.compress(data, preset=4)
    temporary = path + ".part"
    Path(temporary).write_bytes(packed)
    os.replace(temporary, path)
    return Path(path).name, len(packed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="See the head of this file.")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--max-mb", type=float, default=170, metavar="MB", help="stop adding documents at this size (default 170)")
    parser.add_argument("--package-mb", type=float, default=14, metavar="MB", help="at most this much of one package (default 14)")
    parser.add_argument("--packages", nargs="+", default=PACKAGES, metavar="NAME")
    args = parser.parse_args()
    for tool in ("apt-get", "dpkg"):
        if not shutil.which(tool):
            parser.error(f"there is no {tool}: this script needs Debian or Ubuntu")
    started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    workers = max(1, min(8, len(os.sched_getaffinity(0))))
    seen: set[bytes] = set()
    train: list[str] = []
    held: list[str] = []
    infos, total, dropped = [], 0, 0
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ProcessPoolExecutor(workers) as pool:
        os.chmod(folder, 0o755)
        for info, found in pool.map(take, args.packages, [folder] * len(args.packages)):
            if "error" in info:
                print(f"{info['package']:28} skipped: {info['error']}", file=sys.stderr)
                continue
            kept = 0
            for name, text in sorted(found, key=lambda d: hashlib.blake2b(d[0].encode()).digest()):  # a sample when the package is cut
                if kept > args.package_mb * 1e6 or total > args.max_mb * 1e6:
                    break
                fresh = []
                for paragraph in text.split("\n\n"):
                    key = hashlib.blake2b(re.sub(r"[\W\d]+", "", paragraph).lower().encode(), digest_size=8).digest()
                    if key in seen:
                        dropped += len(paragraph)
                        continue
                    seen.add(key)
                    fresh.append(paragraph)
                rest = "\n\n".join(fresh)
                if len(rest) < 300 or not is_english(rest):
                    continue
                is_held = hashlib.blake2b(name.encode(), digest_size=4).digest()[0] * 100 < 256
                (held if is_held else train).append(rest)
                size = len(rest.encode())
                kept, total = kept + size, total + size
            info["bytes"] = kept
            if kept:
                infos.append(info)
            print(f"{info['package']:28} {kept / 1e6:6.1f} MB   {', '.join(info['licences'])[:80]}", file=sys.stderr)
    if total < 1e6:
        print("less than 1 MB of text: are Debian's packages reachable (apt-get update)?", file=sys.stderr)
        return 1
    for old in args.out.glob("train-*.xz"):
        old.unlink()
    n_parts = max(2, round(total / 20e6))
    jobs = [(str(args.out / f"train-{i:02}.xz"), train[len(train) * i // n_parts : len(train) * (i + 1) // n_parts]) for i in range(n_parts)]
    jobs.append((str(args.out / "heldout.xz"), held))
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        files = dict(pool.map(pack, jobs))
    summary = {
        "documents": len(train), "bytes": sum(len(t.encode()) for t in train), "heldout_documents": len(held),
        "heldout_bytes": sum(len(t.encode()) for t in held), "repeated_bytes_dropped": dropped, "files": files, "packages": infos,
    }
    (args.out / "corpus.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{summary['bytes'] / 1e6:.1f} MB in {len(train)} documents, {summary['heldout_bytes'] / 1e6:.2f} MB held out, "
          f"{sum(files.values()) / 1e6:.1f} MB packed, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
