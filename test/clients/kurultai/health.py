"""The health tests, as far as the gateway sees them: python3 health.py HTTP_URL WS_URL TOKEN. Prints what each has read."""
import asyncio
import json
import sys
import time

import aiohttp
import websockets


async def over_http(url):
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/health") as response:
        body = await response.json()
        assert response.status == 200 and ("status" in body or "service" in body), body
        print(json.dumps({"health": body["status"]}))


async def over_websocket(url, token):
    async with websockets.connect(url) as socket:

        async def read():
            frame = json.loads(await asyncio.wait_for(socket.recv(), 5))
            assert "type" in frame, frame
            return frame

        scopes = ["operator.read"]
        await socket.send(json.dumps({"type": "connect", "role": "operator", "token": token, "scopes": scopes}))
        frames = [await read(), await read()]
        timestamp = int(time.time() * 1000)
        await socket.send(json.dumps({"type": "ping", "timestamp": timestamp}))
        pong = await read()
        print(json.dumps({"read": [frame["type"] for frame in frames], "ok": frames[1].get("ok"),
                          "pong": pong["type"] == "pong" and pong["timestamp"] == timestamp}))


async def main(http_url, ws_url, token):
    await over_http(http_url)
    await over_websocket(ws_url, token)


asyncio.run(main(*sys.argv[1:4]))
