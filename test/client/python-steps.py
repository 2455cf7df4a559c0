"""Does the steps of a plan with the Python client and prints what comes of each, a JSON line at a time.

    python3 python-steps.py '{"url": "...", "token": "...", "steps": [{"do": "chat", "message": "hello"}]}'
"""
import asyncio, contextlib, json, os, sys
import kurultai_client as kurultai

def tell(**what):
    print(json.dumps(what), flush=True)

def failure(error):
    named = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, kurultai.RequestRefused):
        named.update(code=error.code, advice=error.advice)
    return named

async def chat(client, step):
    more = {name: step[name] for name in ("idempotency_key", "timeout", "abort_on_cancel") if name in step}
    if "leave_after" in step:
        async with client.chat("main", step["message"]) as left:
            async for chunk in left:
                if len(left.text) >= step["leave_after"]:
                    break
        return tell(ending="left", text=left.text)
    answer = client.chat(step.get("session", "main"), step["message"] * step.get("times", 1), **more)
    drawn = ""
    async def read():
        nonlocal drawn
        async for chunk in answer:
            drawn = chunk.text if chunk.replaces else drawn + chunk.text
            tell(chunk=chunk.text, replaces=chunk.replaces)
            if step.get("abort_after", 1e9) <= len(drawn):
                await answer.abort()
    reading = asyncio.ensure_future(read())
    if "cancel_after" in step:
        while len(drawn) < step["cancel_after"]:
            await asyncio.sleep(0.005)
        reading.cancel()
    try:
        await reading
        ending = "whole"
    except asyncio.CancelledError:
        ending = "cancelled"
    except kurultai.GatewayError as error:
        ending = type(error).__name__
        tell(**failure(error))
    tell(ending=ending, text=answer.text, drawn=drawn, runId=answer.run_id)

async def request(client, step):
    more = {name: step[name] for name in ("timeout", "final") if name in step}
    tell(answer=await client.request(step["method"], step.get("params"), **more))

async def hello(client, step):
    tell(hello={name: client.hello.get(name) for name in ("protocol", "auth", "policy")})

async def pause(client, step):
    tell(paused=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

async def both(client, step):
    await asyncio.gather(*(globals()[inner["do"]](client, inner) for inner in step["steps"]))

async def main(plan):
    options = {"backoff": (0.02, 0.2), "connect_timeout": 10.0, **plan.get("options", {})}
    if "device" in options:
        options["device"] = kurultai.DeviceKey(options["device"])
    heard = []
    try:
        async with kurultai.Client(plan["url"], plan.get("token"), **options) as client:
            client.on_gap(lambda gap: tell(gap=gap.reason))
            for event in ("agent", "chat"):
                client.on(event, lambda payload: heard.append([payload["epoch"], payload["offset"]]))
            for step in plan["steps"]:
                try:
                    await globals()[step["do"]](client, step)
                except (kurultai.GatewayError, ValueError) as error:
                    tell(**failure(error))
    except kurultai.GatewayError as error:
        tell(**failure(error))
    tell(heard=heard)

asyncio.run(main(json.loads(sys.argv[1])))
