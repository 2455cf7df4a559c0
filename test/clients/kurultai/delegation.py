"""The delegation client, as far as the gateway sees it: python3 delegation.py URL TOKEN AGENT TASK TEXT. Prints the answer."""
import asyncio
import json
import sys

import aiohttp


async def main(url, token, agent, task, text):
    context = {"task_id": task, "delegated_by": "main", "task_type": "research", "reply_to": "main", "priority": "normal"}
    timeout = aiohttp.ClientTimeout(total=30)
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        async with session.post(f"{url}/agent/{agent}/message", json={"message": text, "context": context}) as response:
            body = await response.json()
            print(json.dumps({"status": response.status, **body}))


asyncio.run(main(*sys.argv[1:6]))
