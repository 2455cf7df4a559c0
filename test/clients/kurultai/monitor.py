"""The heartbeat monitor, as far as the gateway sees it: python3 monitor.py URL TOKEN SESSION TEXT. Asks an agent, prints its answer."""
import json
import sys
import uuid

import websocket

url, token, session, text = sys.argv[1:5]
socket = websocket.create_connection(url, timeout=60)


def send(method, params):
    socket.send(json.dumps({"type": "req", "id": str(uuid.uuid4()), "method": method, "params": params}))


json.loads(socket.recv())  # The challenge, whatever it says.
client = {"id": "cli", "version": "1.0.0", "platform": "linux", "mode": "backend"}
send("connect", {"minProtocol": 3, "maxProtocol": 3, "client": client, "role": "operator",
                 "scopes": ["operator.admin"], "auth": {"token": token}})
# The frame that comes next is taken for the reply.
reply = json.loads(socket.recv())
if not reply.get("ok"):
    sys.exit(f"not connected: {reply}")
send("chat.send", {"sessionKey": session, "message": text, "deliver": False, "idempotencyKey": str(uuid.uuid4())})

answers = {}
while True:
    frame = json.loads(socket.recv())
    if frame.get("type") != "evt" or frame.get("event") != "agent":
        continue
    payload = frame["payload"]
    data = payload.get("data", {})
    answers[payload["agentId"]] = answers.get(payload["agentId"], "") + data.get("delta", "")
    if data.get("phase") == "end":
        print(json.dumps({"agent": payload["agentId"], "answer": answers[payload["agentId"]]}))
        break
socket.close()
