"""Whether Swagger UI works under the content security policy of `/docs`, which allows what it does."""

import re

import httpx
import pytest

_CODE_FROM_TEXT = re.compile(r"(?<![\w$.])(?:eval|Function)\([\"'`\w$]|set(?:Timeout|Interval)\([\"'`]")
_FALLBACKS = ('||Function("return this")(', '||new Function("return this")(', '=Function("binder",')
"""For browsers without `globalThis`, `self` or `bind`; these know no policies either."""
_INLINE_STYLE = re.compile(
    r"createElement\([\"']style[\"']|setAttribute\([\"']style[\"']|setAttributeNode\(|\.cssText\b"
    r"|insertRule\(|adoptedStyleSheets"
)
_OTHER_RESOURCE = re.compile(
    r"createElement\([\"'](?:script|iframe|object|embed|frame|link|base)[\"']|new (?:Shared)?Worker\("
    r"|importScripts\(|WebAssembly\.\w|(?<![\w$.])import\(|srcdoc|document\.write\("
)
_LOADED_BY_STYLE = re.compile(r"url\((?![\"']?data:)|@import|@font-face")


@pytest.fixture
async def policy(idle_stranger: httpx.AsyncClient) -> dict[str, set[str]]:
    """The sources that each directive of the page's policy allows."""
    header = (await idle_stranger.get("/docs")).headers["Content-Security-Policy"]
    return {name: set(sources) for name, *sources in map(str.split, header.split(";"))}


@pytest.fixture
async def script(idle_stranger: httpx.AsyncClient) -> str:
    return (await idle_stranger.get("/docs/swagger-ui-bundle.js")).text


async def test_nothing_is_allowed_but_what_is_needed_when_the_page_is_loaded(
    policy: dict[str, set[str]],
) -> None:
    ours = {"'self'"}
    assert policy == {
        "default-src": {"'none'"},
        "script-src": ours,
        "style-src": ours,
        "img-src": {*ours, "data:"},
        "connect-src": ours,
        "base-uri": {"'none'"},
        "form-action": {"'none'"},
        "frame-ancestors": {"'none'"},
    }


async def test_script_makes_no_code_of_text_when_the_policy_forbids_it(script: str) -> None:
    for fallback in _FALLBACKS:
        assert fallback in script
        script = script.replace(fallback, "")
    assert _CODE_FROM_TEXT.findall(script) == []


async def test_script_needs_no_inline_style_and_no_other_code_when_the_policy_forbids_them(
    script: str,
) -> None:
    assert _INLINE_STYLE.findall(script) == []
    assert _OTHER_RESOURCE.findall(script) == []


async def test_style_loads_pictures_in_its_own_text_alone_when_the_policy_allows_those(
    idle_stranger: httpx.AsyncClient, policy: dict[str, set[str]]
) -> None:
    style = (await idle_stranger.get("/docs/swagger-ui.css")).text
    assert "url(data:image/" in style
    assert "data:" in policy["img-src"]
    assert _LOADED_BY_STYLE.findall(style) == []


async def test_requests_go_to_the_service_when_the_page_describes_it(
    idle_stranger: httpx.AsyncClient,
) -> None:
    description = (await idle_stranger.get("/openapi.json")).json()
    servers = [server["url"] for server in description.get("servers", [])]
    assert all(url.startswith("/") for url in servers), "a page may connect to its own origin alone"
    schemes = description["components"]["securitySchemes"].values()
    assert "oauth2" not in {scheme["type"] for scheme in schemes}
