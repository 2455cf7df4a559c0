"""A councillor by the Python client: `python3 councillor.py URL TOKEN ID FOLDER`. It does what councillor.ts does."""
import asyncio
import json
import os
import sys

import kurultai_client as kurultai

URL, TOKEN, ME, FOLDER = sys.argv[1:]
LOG = os.open(os.path.join(FOLDER, f"{ME}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def log(**line):
    os.write(LOG, (json.dumps(line) + "\n").encode())


async def answer(run):
    if run.message.startswith("["):
        texts = []
        for said in reversed(run.history):
            if said["role"] != "user":
                break
            texts.append(said["text"])
        log(what="woken", run=run.run_id, texts=texts)
        return await run.say("noted")
    name, rest = run.message.split(" ", 1)
    order = json.loads(rest)
    log(what="asked", run=run.run_id, id=name)
    if "round" in order:
        return await pass_on(run, name, order["round"])
    if order["early"]:
        await run.say(f"{name}:")
    for step in order["steps"]:
        await asyncio.gather(*(perform(run, act) for act in step))
    if not order["early"]:
        await run.say(f"{name}:")
    for number in range(order["words"]):
        await run.say(f" w{number}")
        await asyncio.sleep(order["gap"] / 1000)
    log(what="done", run=run.run_id, id=name)


async def perform(run, act):
    name, message = act["order"]["id"], letter_of(act["order"])
    if act["do"] == "spawn":
        within = {"startWithinSeconds": act["within"]} if "within" in act else {}
        return await call(run, name, "sessions_spawn", task=message, agentId=act["to"], **within)
    timeout = act["wait"] if act["do"] == "ask" else 0
    for _ in range(act.get("times", 1)):
        await call(run, name, "sessions_send", agentId=act["to"], message=message, timeoutSeconds=timeout)


async def pass_on(run, name, round):
    """Sends what it got to the next of the round, on and on."""
    to = round[(round.index(ME) + 1) % len(round)]
    message = f"{name}+ " + json.dumps({"round": round})
    await call(run, f"{name}+", "sessions_send", agentId=to, message=message, timeoutSeconds=0)
    await run.say(f"{name}:")


async def call(run, name, tool, **arguments):
    log(what="sends", run=run.run_id, id=name)
    try:
        log(what="told", run=run.run_id, id=name, text=await run.call(tool, **arguments))
    except kurultai.ToolFailed as error:
        log(what="told", run=run.run_id, id=name, text=str(error))


def letter_of(order):
    return order["id"] + " " + json.dumps({name: value for name, value in order.items() if name != "id"})


async def main():
    device = kurultai.DeviceKey(os.path.join(FOLDER, f"{ME}.key"))
    async with kurultai.Connector(answer, URL, TOKEN, name=ME, device=device, backoff=(0.05, 0.3)) as agent:
        print("ready", flush=True)
        await agent.serve()


asyncio.run(main())
