"""One of the council, as a program of its own: `python3 councillor.py ID KEYFILE`. It ends when its standard input does."""
import asyncio
import os
import sys

import kurultai_client as kurultai

THINKING_S = 0.25


async def analyst(run):
    await asyncio.sleep(THINKING_S)
    words, parts = len(run.message.split()), len(run.message.split("\n"))
    await speak(run, f"{words} words in {parts} parts, and nothing is missing.")


async def ops(run):
    await asyncio.sleep(THINKING_S)
    await speak(run, "History and law are open.")


async def speak(run, text):
    """Says a text word by word, as a model would."""
    words = text.split(" ")
    for number, word in enumerate(words):
        await run.say(word if number == len(words) - 1 else word + " ")
        await asyncio.sleep(0.012)


async def main(name, keyfile):
    script = {"analyst": analyst, "ops": ops}[name]
    url, token = os.environ["OPENCLAW_GATEWAY_URL"], os.environ["OPENCLAW_GATEWAY_TOKEN"]
    async with kurultai.Connector(script, url, token, name=name, device=kurultai.DeviceKey(keyfile)) as agent:
        print("ready", flush=True)
        serving = asyncio.ensure_future(agent.serve())
        over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await asyncio.wait({serving, over}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving


asyncio.run(main(*sys.argv[1:]))
