"""An agent by the Python client: says what it is told to by the message, and prints what becomes of it, a JSON line at a time."""
import asyncio, json, sys
import kurultai_client as kurultai

def tell(**what):
    print(json.dumps(what), flush=True)

async def answer(run):
    order = json.loads(run.message)
    tell(asked=order["do"], history=[said["role"] for said in run.history])
    try:
        if order["do"] == "count":
            for number in range(order["to"]):
                await run.say(f"{number} \N{HORSE FACE} ")
                if number % order["every"] == order["every"] - 1:
                    tell(said=number)
                    await asyncio.sleep(0.02)
        elif order["do"] == "send":
            await run.say("They say: " + await run.send(order["to"], order["message"]))
        elif order["do"] == "fail":
            raise RuntimeError("out of ink")
        elif order["do"] == "call":
            try:
                await run.call("no_such_tool", a=1)
            except kurultai.ToolFailed as error:
                await run.say(str(error))
        elif order["do"] == "call and wait":
            await run.call("agents_list")
            tell(called=True)
            await asyncio.sleep(3600)
        elif order["do"] == "wait":
            await run.say("once ")
            await asyncio.sleep(3600)
    except asyncio.CancelledError:
        tell(cancelled=run.cancelled)
        raise

async def main(url, token, key, name):
    device = kurultai.DeviceKey(key)
    async with kurultai.Connector(answer, url, token, device=device, name=name, backoff=(0.02, 0.1)) as agent:
        tell(ready=device.id)
        await agent.serve()

asyncio.run(main(*sys.argv[1:]))
