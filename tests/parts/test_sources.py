"""The machine's apt sources are read as apt reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from parts import sources
from parts.errors import UnobtainableError

if TYPE_CHECKING:
    from pathlib import Path

_KEYS = "/keys/archive.gpg"
_DEB822 = f"""\
Types: deb deb-src
# URIs: http://old.example/debian
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: {_KEYS}

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: {_KEYS}
"""
_ONE_LINE = f"""\
# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by={_KEYS}] http://mirror.example/debian bookworm main contrib
deb-src http://mirror.example/source bookworm main
deb [signed-by={_KEYS}] http://mirror.example/debian-security bookworm-security main # updates
"""


@pytest.fixture
def bookworm(monkeypatch: pytest.MonkeyPatch) -> None:
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(sources, "_os_release", lambda: release)


@pytest.mark.usefixtures("bookworm")
@pytest.mark.parametrize(
    ("file", "text"),
    [("sources.list", _ONE_LINE), ("sources.list.d/debian.sources", _DEB822)],
    ids=["one-line", "deb822"],
)
def test_both_forms_name_the_same_archives(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / file).write_text(text)
    main, security = sources.archives(tmp_path)
    assert (main.uri, main.signed_by) == ("http://mirror.example/debian", _KEYS)
    assert (security.uri, security.security) == ("http://mirror.example/debian-security", True)


@pytest.mark.usefixtures("bookworm")
def test_a_block_of_keys_inside_the_sources_is_kept_whole(tmp_path: Path) -> None:
    keys = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n -----END PGP PUBLIC KEY BLOCK-----"
    (tmp_path / "sources.list.d").mkdir()
    path = tmp_path / "sources.list.d" / "debian.sources"
    path.write_text(_DEB822.replace(_KEYS, "\n " + keys))
    main, _ = sources.archives(tmp_path)
    stanza = main.stanza(["trixie"])
    assert stanza.startswith("Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\n")
    assert stanza.endswith(f"Signed-By: \n {keys}\n")


@pytest.mark.usefixtures("bookworm")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb http://mirror.example/debian sid main",
        "deb http://mirror.example/debian bookworm contrib",
        "deb-src http://mirror.example/debian bookworm main",
        "deb [signed-by=/keys",
    ],
    ids=["nothing", "other-suite", "other-component", "sources-only", "cut-off"],
)
def test_without_a_debian_archive_the_parts_cannot_be_had(text: str, tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(text)
    with pytest.raises(UnobtainableError, match="name no Debian archive"):
        sources.archives(tmp_path)
