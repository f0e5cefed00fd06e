"""The chat page and the status page: files of this package, read once, served without a key."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).with_name("page")
PAGES = {"/": "index.html", "/status": "status.html"}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere and nothing inline. Trusted types: the browser itself refuses a string as HTML that has not
# been through DOMPurify.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify"
)
GUARD = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # what frame-ancestors says, for scanners that read only this
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-DNS-Prefetch-Control": "off",  # or a link in an answer would ask for its host's name before anyone clicks
}


def routes() -> list[Route]:
    """One route for each file that there is: `/`, `/status`, and what they load below `/page/<digest>/`.

    The digest is of all files, so that a browser keeps them for ever and a new version is new addresses; the two
    pages are asked for again every time, and answered with 304.
    """
    files = {
        path.relative_to(FOLDER).as_posix(): path.read_bytes()
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in TYPES
    }
    whole = hashlib.sha256()
    for name, content in files.items():
        whole.update(b"%s %d\n%s" % (name.encode(), len(content), content))
    base = f"page/{whole.hexdigest()[:12]}/"
    made = [
        _route(path, files[name].replace(b'"page/', f'"{base}'.encode()), name, "no-cache")
        for path, name in PAGES.items()
    ]
    for name, content in files.items():
        if name not in PAGES.values():
            made.append(_route(f"/{base}{name}", content, name, "public, max-age=31536000, immutable"))
    return made


def _route(path: str, content: bytes, name: str, keep: str) -> Route:
    packed = gzip.compress(content, 9, mtime=0)
    tag = hashlib.sha256(content).hexdigest()[:32]
    headers = {**GUARD, "Cache-Control": keep, "Vary": "Accept-Encoding"}

    async def give(request: Request) -> Response:
        if _takes_gzip(request.headers.get("accept-encoding", "")):
            body, more = packed, {"ETag": f'"{tag}-gzip"', "Content-Encoding": "gzip"}
        else:
            body, more = content, {"ETag": f'"{tag}"'}
        if _has(request.headers.get("if-none-match", ""), more["ETag"]):
            return Response(None, 304, {**headers, "ETag": more["ETag"]})
        return Response(body, 200, {**headers, **more, "Content-Type": TYPES[Path(name).suffix]})

    return Route(path, give, methods=["GET"])  # which answers HEAD too


def _takes_gzip(accepted: str) -> bool:
    for offer in accepted.lower().split(","):
        coding, _, weight = offer.replace(" ", "").partition(";q=")
        if coding in ("gzip", "*"):
            return weight.rstrip("0.") != "" or not weight
    return False


def _has(known: str, tag: str) -> bool:
    return any(one.strip().removeprefix("W/") in (tag, "*") for one in known.split(","))
