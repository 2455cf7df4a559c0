"""Speaks the documented short form of the wire: python3 documented-wire.py ws://127.0.0.1:18789 TOKEN "message"."""
import asyncio, json, sys, uuid
import websockets

async def main(url, token, message):
    async with websockets.connect(url) as socket:
        challenge = json.loads(await socket.recv())
        assert challenge["event"] == "connect.challenge" and challenge["payload"]["nonce"]
        async def request(method, params):
            await socket.send(json.dumps({"type": "req", "id": str(uuid.uuid4()), "method": method, "params": params}))
        await request("connect", {"role": "operator", "token": token,
                                  "scopes": ["operator.admin", "operator.approvals", "operator.pairing"]})
        assert json.loads(await socket.recv())["payload"]["type"] == "hello-ok"
        await request("chat.send", {"sessionKey": "main", "message": message, "deliver": False, "idempotencyKey": str(uuid.uuid4())})
        async for text in socket:
            payload = json.loads(text).get("payload") or {}
            if payload.get("stream") == "assistant":
                print(payload["data"]["delta"], end="", flush=True)
            if payload.get("stream") == "lifecycle" and payload["data"]["phase"] == "end":
                return print()

asyncio.run(asyncio.wait_for(main(*sys.argv[1:4]), 30))
