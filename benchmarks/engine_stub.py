"""An engine that costs next to nothing: it streams `max_tokens` tokens, `user` of them each second (0: at once).

GET /running tells how many streams are under way.

    python benchmarks/engine_stub.py PORT
"""

from __future__ import annotations

import asyncio
import json
import sys

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\nConnection: %s\r\n\r\n"
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"stub","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'  # noqa: E501
LAST = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"stub","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'  # noqa: E501


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


running = 0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            body = json.loads(await reader.readexactly(length) or b"{}") if length else {}
            keep = b"connection: close" not in lines
            word = b"keep-alive" if keep else b"close"
            if head.startswith(b"GET"):
                told = b'{"running": %d}' % running
                writer.write(HEAD % (b"application/json", b"Content-Length: %d" % len(told), word) + told)
            else:
                await stream(writer, word, int(body.get("max_tokens", 200)), float(body.get("user") or 0))
            await writer.drain()
            if not keep:
                break
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def stream(writer: asyncio.StreamWriter, word: bytes, tokens: int, rate: float) -> None:
    global running
    writer.write(HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked", word))
    clock = asyncio.get_running_loop().time
    begin = clock()
    running += 1
    try:
        for number in range(tokens):
            if writer.transport.is_closing():
                return
            writer.write(chunk(EVENT))
            if rate:
                await asyncio.sleep(max(0.0, begin + (number + 1) / rate - clock()))
            elif number % 16 == 0:
                await writer.drain()
        writer.write(chunk(LAST) + b"0\r\n\r\n")
    finally:
        running -= 1


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=2048)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
