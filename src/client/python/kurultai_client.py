#!/usr/bin/env python3
"""A connection to a gateway that outlives its sockets: for asyncio, on the `websockets` library (10 to 15).

    async with Client("ws://127.0.0.1:18789", token="...") as client:
        async for chunk in client.chat("agent:main:main", "hello"):
            print(chunk.text, end="")
        answer = await client.request("sessions.list", {})
        client.on("presence", lambda payload: print(payload))

An agent of the gateway is answered by a program like this; see `Connector`:

    async def answer(run):
        for word in run.message.split():
            await run.say(word + " ")

    async with Connector(answer, token="...", name="researcher", device=DeviceKey("researcher.key")) as researcher:
        await researcher.serve()

A lost socket is made anew, with growing pauses. What was said in a session meanwhile is then asked for and heard once and in
order; requests that may be repeated are sent again, those with an idempotency key under the same key; the others fail with
`ConnectionLost`. As a program it says one thing and prints the answer as it comes:

    python3 kurultai_client.py --url ws://127.0.0.1:18789 --token TOKEN "hello"

Everything belongs to the one event loop that the client was entered in; nothing here may be called from another thread.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import os
import random
import sys
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, Awaitable, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Set, Tuple, TypeVar, Union

import websockets
from websockets.exceptions import ConnectionClosed, InvalidHandshake

__all__ = [
    "Aborted", "Chat", "Chunk", "Client", "ConnectionLost", "Connector", "DeadlineExceeded", "Device", "DeviceKey", "Gap",
    "GatewayError", "RequestRefused", "Run", "RunEnded", "RunFailed", "RunInterrupted", "RunTimedOut", "ToolFailed",
]

VERSION = "1"
Payload = Dict[str, Any]
Handler = Callable[[Payload], None]
_H = TypeVar("_H")

_log = logging.getLogger("kurultai_client")

# Methods that change nothing, or nothing more the second time: asked again after a lost connection.
READING = frozenset({
    "health", "status", "system-presence", "last-heartbeat", "logs.tail", "config.get", "config.schema",
    "agent.wait", "agent.identity.get", "exec.approval.list", "exec.approvals.get",
    "device.pair.list", "node.pair.list", "node.list", "node.describe", "skills.bins", "tokens.list", "audit.entries",
    "agents.list", "models.list", "sessions.list", "sessions.preview", "sessions.resolve", "chat.history", "chat.resume",
    "agent.result", "agents.status", "agents.files.list", "agents.files.get", "sessions.digest", "sessions.usage",
    "chains.get", "chains.list", "messages.list", "messages.get", "usage.status", "usage.cost", "usage.by",
    "channels.status", "skills.status", "tts.status", "tts.providers", "tts.disable", "question.list",
    "plugin.approval.list", "voicewake.get", "commands.list", "sessions.subscribe", "sessions.describe",
    "sessions.get", "sessions.messages.subscribe", "sessions.messages.unsubscribe", "sessions.usage.timeseries",
    "sessions.usage.logs", "exec.approvals.node.get", "set-heartbeats", "cron.list", "cron.get", "cron.status", "cron.runs",
})
# Methods that are done once for each idempotency key, however often they are sent.
KEYED = frozenset({"chat.send", "sessions.send", "sessions.steer", "agent", "node.invoke"})

# What to do about a refused `connect`, by `details.code`.
ADVICE = {
    "CONNECT_FIRST": "something on the way sends frames of its own; connect to the gateway itself",
    "INVALID_PARAMS": "mend what the message names",
    "PROTOCOL_MISMATCH": "this client speaks protocols 3 and 4; use a version that speaks the one expected",
    "PROXY_ATTRIBUTION_REQUIRED": "add the proxy's address to gateway.trustedProxies",
    "INVALID_ROLE": "use the role operator or node",
    "CONTROL_UI_ORIGIN_NOT_ALLOWED": "use another client id; that one is for the gateway's own page",
    "CONTROL_UI_DEVICE_IDENTITY_REQUIRED": "use another client id; that one is for the gateway's own page",
    "DEVICE_IDENTITY_REQUIRED": "pass token=... or set OPENCLAW_GATEWAY_TOKEN",
    "DEVICE_AUTH_PUBLIC_KEY_INVALID": "device.public_key must be 32 raw bytes in base64url without padding",
    "DEVICE_AUTH_DEVICE_ID_MISMATCH": "device.id must be the SHA-256 of the raw public key, in hex",
    "DEVICE_AUTH_SIGNATURE_EXPIRED": "set this machine's clock",
    "DEVICE_AUTH_NONCE_REQUIRED": "connect to the gateway itself; the challenge got lost on the way",
    "DEVICE_AUTH_NONCE_MISMATCH": "connect to the gateway itself; the challenge was changed on the way",
    "DEVICE_AUTH_SIGNATURE_INVALID": "device.sign must give an Ed25519 signature of the key in device.public_key",
    "AUTH_TOKEN_MISSING": "pass token=... or set OPENCLAW_GATEWAY_TOKEN",
    "AUTH_TOKEN_MISMATCH": "use the token in the gateway's configuration (gateway.auth.token) or state folder, or one that was issued by name",
    "AUTH_PASSWORD_MISSING": "pass password=...",
    "AUTH_PASSWORD_MISMATCH": "use the password in the gateway's configuration (gateway.auth.password)",
    "PAIRING_REQUIRED": "have the device approved at the gateway, or use the shared token without a device",
}

# Characters of a text that are told at once.
_MOST_TOLD = 32 * 1024
# The largest frame taken, in bytes: a history, or what was missed, is at most a few MiB.
_MOST_BYTES = 32 * 1024 * 1024
# Runs that one `chat.resume` may ask about.
_MOST_RUNS_ASKED = 64
# Texts of which it is remembered how far they were told, when that is further than their session was heard.
_MOST_TEXTS = 1024
# A connection that lived shorter than this, in seconds, counts as a failed try.
_SHORT_LIFE = 1.0
# How long closing waits for what is still to be said, in seconds.
_LAST_WORDS = 2.0


class GatewayError(Exception):
    """Whatever goes wrong between this client and the gateway."""


class RequestRefused(GatewayError):
    """The gateway answered no.

    `code` is the precise name (`details.code`) where there is one, `wire_code` the coarse one; `payload` is what a failed run
    answers besides. `advice` says what to do where that is known.
    """

    def __init__(self, error: Mapping[str, Any], payload: Any = None) -> None:
        details = error.get("details")
        self.wire_code = str(error.get("code", "UNAVAILABLE"))
        self.message = str(error.get("message", "refused without a reason"))
        self.details: Payload = details if isinstance(details, dict) else {}
        self.code = str(self.details.get("code", self.wire_code))
        self.retry_after = _seconds(error.get("retryAfterMs"))
        self.retryable = bool(error.get("retryable"))
        self.payload = payload
        self.advice: Optional[str] = ADVICE.get(self.code)
        super().__init__(f"{self.code}: {self.message}" + (f" ({self.advice})" if self.advice else ""))


class ConnectionLost(GatewayError):
    """There is no connection, and whoever waited for it waits no longer."""


class DeadlineExceeded(GatewayError, TimeoutError):
    """No answer came in time."""


class RunEnded(GatewayError):
    """A run ended without a whole answer. `text` is what there is of it."""

    def __init__(self, message: str, run_id: str, text: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.text = text


class RunFailed(RunEnded):
    """The model or the gateway could not answer; the message has its words."""


class RunInterrupted(RunEnded):
    """The gateway's process ended in the middle of the run. Sending the message again repeats it."""


class RunTimedOut(RunEnded):
    """The run reached its deadline."""


class Aborted(RunEnded):
    """Somebody stopped the run."""


class ToolFailed(GatewayError):
    """A tool refused, or failed; the message is its own."""


class Chunk(NamedTuple):
    """A piece of an answer."""

    text: str
    #: This is the whole answer so far, and what came before is not part of it.
    replaces: bool = False


class Gap(NamedTuple):
    """What was said in a session can not all be told any more; `snapshot` is how it stands now."""

    session_key: str
    #: no_position, epoch_changed, too_old or too_large
    reason: str
    #: sessionId, messages, runs: see `chat.resume`
    snapshot: Payload


class Device(Protocol):
    """A key that a peer can prove to have."""

    #: SHA-256 of the raw public key, in hex.
    id: str
    #: The raw 32 bytes of an Ed25519 key, in base64url without padding.
    public_key: str

    def sign(self, payload: bytes) -> bytes: ...


class Socket(Protocol):
    """What is used of a socket: the same in all versions of the library."""

    transport: asyncio.Transport

    async def recv(self) -> Union[str, bytes]: ...
    async def send(self, message: str) -> None: ...
    async def close(self, code: int = 1000, reason: str = "") -> None: ...


@dataclass(eq=False)
class _Call:
    """A request from when it is made until it is answered, over as many connections as that takes."""

    id: str
    method: str
    params: Payload
    #: Told the answer or the failure, in the order in which frames come.
    settle: Callable[[Any, Optional[GatewayError]], None]
    #: Skips a first answer whose status is `accepted`.
    final: bool = False
    #: Dies with the connection, in silence: it is about that connection.
    momentary: bool = False
    #: Whether it does no harm to send it twice; None: see `repeatable`.
    harmless: Optional[bool] = None
    #: Has been written to a socket, at least in part, and not been refused since.
    sent: bool = False
    #: Nobody waits for the answer any more.
    dropped: bool = False
    refusals: int = 0
    deadline: Optional[asyncio.TimerHandle] = None
    #: Waits before it is sent again, since the gateway asked for that.
    rest: Optional[asyncio.TimerHandle] = None

    @property
    def repeatable(self) -> bool:
        """Whether it is sent again. An abort that names its run stops that run, or finds it stopped."""
        if self.harmless is not None:
            return self.harmless
        return self.method in READING or self.method in KEYED or (self.method == "chat.abort" and "runId" in self.params)

    def quieten(self) -> None:
        for timer in (self.deadline, self.rest):
            if timer:
                timer.cancel()
        self.deadline = self.rest = None


class _Place(NamedTuple):
    """Where an event stands in its session's stream."""

    epoch: str
    offset: int


@dataclass(eq=False)
class _Link:
    """One connection that has shaken hands."""

    socket: Socket
    hello: Payload
    heard_at: float
    outbox: asyncio.Queue[Tuple[_Call, str]] = field(default_factory=asyncio.Queue)
    #: Sessions whose missed events are on their way: until then, what comes of them is in that answer, too.
    resuming: Set[str] = field(default_factory=set)
    #: Why it was ended from this side.
    ended: Optional[str] = None

    def end(self, why: str) -> None:
        """Ends it at once, without waiting for a peer that may not be there any more."""
        self.ended = why
        self.socket.transport.abort()

    @property
    def policy(self) -> Payload:
        return dict(self.hello.get("policy") or {})

    def knows(self, method: str) -> bool:
        return method in (self.hello.get("features") or {}).get("methods", ())


class Client:
    """The gateway, as long as there is one.

    :param url: `ws://...` or `wss://...`; else OPENCLAW_GATEWAY_URL, else loopback at OPENCLAW_GATEWAY_PORT or 18789.
    :param token: else OPENCLAW_GATEWAY_TOKEN.
    :param device: proves an identity; not needed beside a right shared token.
    :param device_token: what the gateway gave this device in `hello["auth"]`, in place of the shared token.
    :param scopes: what to ask for; None asks for all that the credential may have.
    :param caps: capabilities besides `stream-offsets` and `delta-only`.
    :param info: changes members of the `client` block of `connect`: id, displayName, version, platform, mode.
    :param ssl: for `wss://`, where the machine's own authorities are not enough.
    :param timeout: how long a request may take unless it says otherwise, in seconds.
    :param connect_timeout: how long entering waits for a gateway that does not answer yet, in seconds.
    :param give_up_after: seconds without a connection after which everything that waits fails; None waits for ever.
    :param backoff: the first and the longest pause between two tries to connect, in seconds; each is cut by up to a half.
    :param most_sessions: how many sessions' positions are remembered, the last heard of.
    """

    def __init__(
        self,
        url: Optional[str] = None,
        token: Optional[str] = None,
        *,
        password: Optional[str] = None,
        device: Optional[Device] = None,
        device_token: Optional[str] = None,
        scopes: Optional[Sequence[str]] = None,
        caps: Sequence[str] = (),
        info: Optional[Mapping[str, str]] = None,
        ssl: Optional[SSLContext] = None,
        timeout: float = 30.0,
        connect_timeout: float = 30.0,
        give_up_after: Optional[float] = None,
        backoff: Tuple[float, float] = (0.25, 15.0),
        most_sessions: int = 256,
    ) -> None:
        env = os.environ
        self.url = url or env.get("OPENCLAW_GATEWAY_URL") or f"ws://127.0.0.1:{env.get('OPENCLAW_GATEWAY_PORT') or 18789}"
        if token is None and device_token is None and password is None:
            token = env.get("OPENCLAW_GATEWAY_TOKEN")
        secrets = {"token": token, "deviceToken": device_token, "password": password}
        self._auth = {name: secret for name, secret in secrets.items() if secret}
        self._device = device
        self._ssl = {"ssl": ssl} if ssl else {}
        self._scopes = None if scopes is None else list(scopes)
        self._caps = ["stream-offsets", "delta-only", *caps]
        # The instance lets the gateway see that the one who comes back is the one who left.
        self._info = {
            "id": "gateway-client", "version": VERSION, "platform": sys.platform, "mode": "backend",
            "instanceId": str(uuid.uuid4()), **(info or {}),
        }
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._give_up_after = give_up_after
        self._first_pause, self._longest_pause = backoff
        self._most_sessions = most_sessions
        self._role = "operator"
        self._commands: List[str] = []
        self._numbers: Iterator[int] = itertools.count(1)
        self._calls: Dict[str, _Call] = {}
        self._chats: Dict[str, Chat] = {}
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._told: OrderedDict[Tuple[str, str], int] = OrderedDict()
        self._handlers: Dict[str, List[Handler]] = {}
        self._gap_handlers: List[Callable[[Gap], None]] = []
        self._link: Optional[_Link] = None
        self._keeping: Optional[asyncio.Task[None]] = None
        #: Why there will be no connection any more.
        self._over: Optional[GatewayError] = None
        #: Not to connect before this, by the loop's clock.
        self._not_before = 0.0
        self._welcome: asyncio.Future[None]

    # ---- the outside ----

    async def __aenter__(self) -> Client:
        """Connects.

        :raises RequestRefused: when the gateway does not let this client in
        :raises ConnectionLost: when nobody answers within `connect_timeout`
        """
        if self._keeping:
            raise RuntimeError("a client is entered once")
        loop = asyncio.get_running_loop()
        self._welcome = loop.create_future()
        self._keeping = loop.create_task(self._keep_connected())
        try:
            await self._welcome
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Says what is still to be said (an abort), hangs up, and fails whatever waits with `ConnectionLost`."""
        link = self._link
        aborts = [call for call in self._calls.values() if call.method == "chat.abort"]
        if link and not self._over and aborts:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(link.outbox.join(), _LAST_WORDS)
        self._end(ConnectionLost("the client was closed"))
        if self._keeping and not self._keeping.done():
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def hello(self) -> Payload:
        """What the gateway said in `hello-ok`: protocol, server, features, snapshot, auth, policy.

        :raises ConnectionLost: when there is no connection just now
        """
        if not self._link:
            raise ConnectionLost("there is no connection just now")
        return self._link.hello

    async def request(
        self,
        method: str,
        params: Optional[Mapping[str, Any]] = None,
        *,
        timeout: Optional[float] = None,
        final: bool = False,
        repeatable: Optional[bool] = None,
    ) -> Any:
        """Asks, and returns the payload of the answer. Waits for a connection if there is none just now.

        `chat.send` and `agent` get an `idempotencyKey` unless they have one, and are sent again under it; reading methods, and
        `chat.abort` with a `runId`, are sent again as they are. Whatever the gateway refuses for the moment is sent again when
        it says.

        :param timeout: seconds; 0 waits as long as it takes
        :param final: of the two answers of `agent`, returns the second; has no deadline unless told otherwise
        :param repeatable: whether it does no harm to send it twice, for methods that this client does not know better
        :raises RequestRefused: the gateway answered no
        :raises ConnectionLost: the connection ended, and nobody knows whether the request was carried out
        :raises DeadlineExceeded: no answer came in time
        """
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def settle(payload: Any, error: Optional[GatewayError]) -> None:
            if answered.done():
                return
            if error:
                answered.set_exception(error)
            else:
                answered.set_result(payload)

        given = dict(params or {})
        if method in KEYED:
            given.setdefault("idempotencyKey", str(uuid.uuid4()))
        limit = timeout if timeout is not None else 0.0 if final else self._timeout
        call = self._ask(method, given, settle, timeout=limit, final=final, harmless=repeatable)
        try:
            return await answered
        finally:
            self._drop(call)

    def chat(
        self,
        session_key: str,
        message: str,
        *,
        idempotency_key: Optional[str] = None,
        timeout: Optional[float] = None,
        abort_on_cancel: bool = True,
        **more: Any,
    ) -> Chat:
        """Gives a session a turn; the answer is iterated over. It is sent when the first chunk is asked for.

        :param idempotency_key: the same key is the same run: whoever asks again gets the same answer, and no second run
        :param timeout: how long the gateway may take to accept it, in seconds; the answer may take longer
        :param abort_on_cancel: whether the run is stopped when the task that iterates is cancelled
        :param more: further parameters of `chat.send`, such as `timeoutMs` (the deadline of the run), `thinking`, `attachments`
        """
        key = idempotency_key or str(uuid.uuid4())
        params = {"sessionKey": session_key, "message": message, "idempotencyKey": key, **more}
        return Chat(self, params, self._timeout if timeout is None else timeout, abort_on_cancel)

    def on(self, event: str, handler: Handler) -> Callable[[], None]:
        """Calls a plain function with the payload of each event of that name, until the function returned is called.

        Events of a session (`agent`, `chat`) come once and in order, also over a reconnect, or a gap is told.
        """
        return _listen(self._handlers.setdefault(event, []), handler)

    def on_gap(self, handler: Callable[[Gap], None]) -> Callable[[], None]:
        """Calls a plain function when events of a session were missed that can not be had any more."""
        return _listen(self._gap_handlers, handler)

    # ---- connecting ----

    async def _keep_connected(self) -> None:
        """Connects again and again, until there is a reason not to."""
        loop = asyncio.get_running_loop()
        failures = 0
        alone_since = loop.time()
        while not self._over:
            why: Exception
            pause = 0.0
            try:
                socket, hello = await self._shake_hands()
            except RequestRefused as error:
                if not (error.retryable or error.retry_after or error.wire_code == "UNAVAILABLE"):
                    return self._end(error)
                why, pause = error, error.retry_after or 0.0
            except (OSError, EOFError, asyncio.TimeoutError, ConnectionClosed, InvalidHandshake, GatewayError) as error:
                why = error
            except Exception as error:  # An address that is none, for one: trying again would not help.
                return self._end(ConnectionLost(f"cannot connect to {self.url}: {error}"))
            else:
                began = loop.time()
                why = ConnectionLost(f"the connection was lost: {await self._serve(socket, hello)}")
                alone_since = loop.time()
                if alone_since - began >= _SHORT_LIFE:
                    failures = 0
            limit = self._give_up_after if self._welcome.done() else self._connect_timeout
            backoff = min(self._longest_pause, self._first_pause * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0)
            failures += 1
            now = loop.time()
            wait = max(backoff, self._not_before - now)
            if pause:
                # Not all who were told the same instant come back at once.
                wait = max(wait, pause + backoff)
            if limit is not None and now + wait > alone_since + limit:
                return self._end(ConnectionLost(f"no gateway answers at {self.url}: {_words(why)}"))
            _log.info("%s; connecting again in %.2f s", _words(why), wait)
            await asyncio.sleep(wait)

    async def _shake_hands(self) -> Tuple[Socket, Payload]:
        """Opens a socket and is let in."""
        connect: Callable[..., Any] = getattr(websockets, "connect")
        try:
            # Ticks show whether the gateway lives; the library's own pings would be a second opinion.
            socket: Socket = await connect(
                self.url, max_size=_MOST_BYTES, compression=None, ping_interval=None, open_timeout=10, close_timeout=1, **self._ssl
            )
        except InvalidHandshake as error:
            raise _turned_away(error) or error
        try:
            challenge = (await _next_frame(socket)).get("payload") or {}
            request = {"type": "req", "id": "connect", "method": "connect", "params": self._introduction(challenge)}
            await socket.send(json.dumps(request))
            answer = await _next_frame(socket)
            while answer.get("type") != "res":
                answer = await _next_frame(socket)
        except BaseException:
            socket.transport.abort()
            raise
        if not answer.get("ok"):
            socket.transport.abort()
            raise RequestRefused(answer.get("error") or {})
        return socket, answer["payload"]

    def _introduction(self, challenge: Payload) -> Payload:
        """The parameters of `connect`."""
        params: Payload = {
            "minProtocol": 3, "maxProtocol": 4, "client": self._info, "role": self._role, "caps": self._caps,
            "userAgent": f"kurultai_client/{VERSION} python/{sys.version_info[0]}.{sys.version_info[1]}",
        }
        if self._commands:
            params["commands"] = self._commands
        if self._scopes is not None:
            params["scopes"] = self._scopes
        if self._auth:
            params["auth"] = self._auth
        if self._device:
            nonce = str(challenge.get("nonce", ""))
            # The gateway's own instant, so that a clock that is off does no harm; the nonce is what makes it fresh.
            at = challenge.get("ts")
            signed_at = at if isinstance(at, int) else int(time.time() * 1000)
            token = self._auth.get("token") or self._auth.get("deviceToken") or ""
            info, scopes = self._info, ",".join(self._scopes or ())
            signed = ["v2", self._device.id, info["id"], info["mode"], self._role, scopes, str(signed_at), token, nonce]
            params["device"] = {
                "id": self._device.id, "publicKey": self._device.public_key, "signedAt": signed_at, "nonce": nonce,
                "signature": _base64url(self._device.sign("|".join(signed).encode())),
            }
        return params

    async def _serve(self, socket: Socket, hello: Payload) -> str:
        """Reads a connection to its end, and says why it ended."""
        loop = asyncio.get_running_loop()
        link = self._link = _Link(socket, hello, loop.time())
        writing = loop.create_task(_write(link))
        for denied in (hello.get("auth") or {}).get("denied") or ():
            _log.warning("the scope %s was not granted: %s", denied.get("scope"), denied.get("reason"))
        silence = 2 * (_seconds(link.policy.get("tickIntervalMs")) or 30.0)

        watching = loop.create_task(_watch(link, silence))
        try:
            self._catch_up(link)
            if not self._welcome.done():
                self._welcome.set_result(None)
            while True:
                text = await socket.recv()
                link.heard_at = loop.time()
                self._receive(link, json.loads(text))
        except ConnectionClosed as error:
            return link.ended or str(error)
        except Exception as error:
            # What the gateway sent is not what the protocol says: a new connection is the only way to begin anew.
            _log.exception("a frame could not be taken")
            return f"a frame could not be taken: {_words(error)}"
        finally:
            watching.cancel()
            writing.cancel()
            self._link = None
            self._lost()
            with contextlib.suppress(Exception):
                await socket.close()

    def _catch_up(self, link: _Link) -> None:
        """Asks for what was missed, then sends again what was not answered, in the order in which it was made."""
        sessions = dict.fromkeys(chat.session for chat in self._chats.values() if chat.may_run)
        if self._gap_handlers or self._handlers.get("agent") or self._handlers.get("chat"):
            sessions.update(dict.fromkeys(self._places))
        # Nobody asked for what was missed of the others: they begin anew with what is heard next.
        self._places = OrderedDict((key, place) for key, place in self._places.items() if key in sessions)
        for session in sessions:
            self._resume(link, session)
        for call in list(self._calls.values()):
            if not call.rest and not call.momentary:
                self._send(link, call)

    def _lost(self) -> None:
        """The connection is gone: fails what must not be sent twice, and keeps the rest for the next one."""
        for call in list(self._calls.values()):
            if call.momentary:
                self._drop(call)
            elif call.sent and not call.repeatable:
                self._settle(call, None, ConnectionLost(
                    f"the connection was lost before the answer to {call.method}: nobody knows whether it was carried out"
                ))
        for chat in self._chats.values():
            chat.crossed = True

    def _end(self, error: GatewayError) -> None:
        """There will be no connection any more: nobody waits for one."""
        if self._over:
            return
        self._over = error
        for call in list(self._calls.values()):
            self._settle(call, None, error)
        for chat in list(self._chats.values()):
            chat.end(error)
        if not self._welcome.done():
            self._welcome.set_exception(error)

    # ---- requests ----

    def _ask(
        self,
        method: str,
        params: Payload,
        settle: Callable[[Any, Optional[GatewayError]], None],
        *,
        timeout: float = 0.0,
        final: bool = False,
        momentary: bool = False,
        harmless: Optional[bool] = None,
    ) -> _Call:
        """Sends a request now, or once there is a connection. `settle` is called once, unless the call is dropped first."""
        if self._over:
            raise self._over
        if not self._keeping:
            raise RuntimeError("enter the client first: async with Client(...) as client")
        call = _Call(str(next(self._numbers)), method, params, settle, final=final, momentary=momentary, harmless=harmless)
        # Refused here and now if it is no JSON, or no text.
        _encode(call)
        self._calls[call.id] = call
        if timeout > 0:
            call.deadline = asyncio.get_running_loop().call_later(timeout, self._expire, call, timeout)
        if self._link:
            self._send(self._link, call)
        return call

    def _send(self, link: _Link, call: _Call) -> None:
        text = _encode(call)
        most = link.policy.get("maxPayload")
        if isinstance(most, int) and len(text.encode()) > most:
            # The gateway would hang up, and so it would each time.
            return self._settle(call, None, RequestRefused(
                {"code": "INVALID_REQUEST", "message": f"{call.method} is larger than the {most} bytes that the gateway takes"}
            ))
        link.outbox.put_nowait((call, text))

    def _expire(self, call: _Call, timeout: float) -> None:
        unknown = ": nobody knows whether it was carried out" if call.sent and (call.method in KEYED or not call.repeatable) else ""
        how = "; ask again under the same key to find out" if unknown and call.method in KEYED else ""
        self._settle(call, None, DeadlineExceeded(f"no answer to {call.method} within {timeout:g} s{unknown}{how}"))

    def _drop(self, call: _Call) -> None:
        call.dropped = True
        call.quieten()
        self._calls.pop(call.id, None)

    def _settle(self, call: _Call, payload: Any, error: Optional[GatewayError]) -> None:
        if self._calls.get(call.id) is call:
            self._drop(call)
            call.settle(payload, error)

    def _answered(self, frame: Payload) -> None:
        call = self._calls.get(str(frame.get("id")))
        if not call:
            return
        payload = frame.get("payload")
        if frame.get("ok"):
            if not (call.final and isinstance(payload, dict) and payload.get("status") == "accepted"):
                self._settle(call, payload, None)
            return
        refusal = RequestRefused(frame.get("error") or {}, payload)
        if not refusal.retryable:
            return self._settle(call, None, refusal)
        loop = asyncio.get_running_loop()
        backoff = min(self._longest_pause, self._first_pause * 2.0 ** min(call.refusals, 30)) * random.uniform(0.5, 1.0)
        wait = refusal.retry_after + random.uniform(0, self._first_pause) if refusal.retry_after else backoff
        call.refusals += 1
        call.sent = False
        if call.deadline and loop.time() + wait > call.deadline.when():
            # The reason says more than that there was no answer in time.
            return self._settle(call, None, refusal)

        call.rest = loop.call_later(wait, self._again, call)

    def _again(self, call: _Call) -> None:
        call.rest = None
        if self._link:
            self._send(self._link, call)

    # ---- what is heard ----

    def _receive(self, link: _Link, frame: Any) -> None:
        if not isinstance(frame, dict):
            return
        if frame.get("type") == "res":
            self._answered(frame)
        elif frame.get("type") in ("event", "evt"):
            payload = frame.get("payload")
            self._heard(link, str(frame.get("event")), payload if isinstance(payload, dict) else {})

    def _heard(self, link: _Link, event: str, payload: Payload) -> None:
        """Takes an event that came live; one that stands in a stream, only if it is the next one."""
        if event == "shutdown":
            back = _seconds(payload.get("restartExpectedMs"))
            if back:
                self._not_before = asyncio.get_running_loop().time() + back
        session, epoch, offset = payload.get("sessionKey"), payload.get("epoch"), payload.get("offset")
        if isinstance(session, str) and isinstance(epoch, str) and isinstance(offset, int):
            if session in link.resuming:
                return
            known = self._places.get(session)
            if known and known.epoch == epoch and offset <= known.offset:
                return
            # What waited for a slow reader stands for more than one offset.
            first = payload.get("from", offset)
            if known and first > (known.offset + 1 if known.epoch == epoch else 1):
                return self._resume(link, session)
            self._place(session, _Place(epoch, offset))
        self._deliver(event, payload)

    def _is_repeat(self, event: str, payload: Payload) -> bool:
        """Whether a piece of text was told as part of another one, before the connection was lost."""
        text = (str(payload.get("runId")), str(payload.get("stream")) if event == "agent" else f"chat {payload.get('state')}")
        seq = payload.get("seq", 0)
        if "from" in payload:
            # It may tell what has a later offset than its own, too: that comes again after a resume.
            self._told[text] = seq
            while len(self._told) > _MOST_TEXTS:
                self._told.popitem(last=False)
            return False
        return text in self._told and seq <= self._told[text]

    def _deliver(self, event: str, payload: Payload) -> None:
        if self._is_repeat(event, payload):
            return
        if event in ("agent", "chat"):
            chat = self._chats.get(str(payload.get("runId")))
            if chat:
                chat.hear(event, payload)
        for handler in list(self._handlers.get(event, ())):
            _guarded(handler, payload)

    def _place(self, session: str, place: _Place) -> None:
        """Notes how far a session was heard, and forgets the one that was heard least lately if there are too many."""
        self._places[session] = place
        self._places.move_to_end(session)
        while len(self._places) > self._most_sessions:
            self._places.popitem(last=False)

    def _resume(self, link: _Link, session: str) -> None:
        """Asks for what was missed of a session. Until the answer is there, what comes of it is left to the answer."""
        chats = [chat for chat in self._chats.values() if chat.session == session and chat.may_run]
        if not link.knows("chat.resume"):
            for chat in chats:
                chat.end(ConnectionLost("the connection was lost in the middle of the answer, and this gateway cannot resume it"))
            return
        if session in link.resuming:
            return
        link.resuming.add(session)
        place = self._places.get(session)
        params: Payload = {"sessionKey": session, "runIds": [chat.run_id for chat in chats][:_MOST_RUNS_ASKED]}
        if place:
            params.update(epoch=place.epoch, offset=place.offset)

        def settle(answer: Any, error: Optional[GatewayError]) -> None:
            link.resuming.discard(session)
            if error:
                _log.warning("what was missed in %s cannot be had: %s", session, error)
                for chat in chats:
                    chat.end(error)
                return
            self._resumed(session, answer)

        self._ask("chat.resume", params, settle, momentary=True)

    def _resumed(self, session: str, answer: Payload) -> None:
        place = _Place(answer["epoch"], answer["offset"])
        if answer["recovered"]:
            for missed in answer["events"]:
                payload = missed["payload"]
                key, at = payload.get("sessionKey", session), _Place(payload["epoch"], payload["offset"])
                known = self._places.get(key)
                # Asked for under two spellings of the key, it comes twice.
                if not known or known.epoch != at.epoch or known.offset < at.offset:
                    self._place(key, at)
                    self._deliver(missed["event"], payload)
            return
        self._place(session, place)
        snapshot = answer["snapshot"]
        runs = {run["runId"]: run for run in snapshot["runs"]}
        for chat in list(self._chats.values()):
            if chat.session == session and chat.may_run:
                chat.see(runs.get(chat.run_id), place)
        gap = Gap(session, answer["reason"], snapshot)
        for handler in list(self._gap_handlers):
            _guarded(handler, gap)

    # ---- for chats ----

    def _begin(self, chat: Chat, timeout: float, settle: Callable[[Any, Optional[GatewayError]], None]) -> _Call:
        if chat.run_id in self._chats:
            raise RuntimeError(f"{chat.run_id} is being read already: a key is for one chat at a time")
        chat.session = self._canonical(chat.session)
        self._chats[chat.run_id] = chat
        try:
            return self._ask("chat.send", chat.params, settle, timeout=timeout)
        except BaseException:
            self._forget(chat)
            raise

    def _canonical(self, key: str) -> str:
        """The key that events carry, as far as can be told from here: agents' names are only known to the gateway."""
        defaults = ((self._link and self._link.hello.get("snapshot")) or {}).get("sessionDefaults") or {}
        key = key.strip().lower()
        if key.startswith("agent:") or not defaults.get("defaultAgentId"):
            return key
        if key in ("", "main", defaults.get("mainKey")):
            return str(defaults.get("mainSessionKey", key))
        return f"agent:{defaults['defaultAgentId']}:{key}"

    def _renamed(self, chat: Chat, run_id: str) -> None:
        """The gateway gave a run another id than its key."""
        self._chats.pop(chat.run_id, None)
        chat.run_id = run_id
        self._chats[run_id] = chat

    def _look(self, chat: Chat) -> None:
        """Asks how a run stands, and tells its chat."""

        def settle(answer: Any, error: Optional[GatewayError]) -> None:
            if error:
                return chat.end(error)
            runs = {run["runId"]: run for run in answer["snapshot"]["runs"]}
            chat.see(runs.get(chat.run_id), _Place(answer["epoch"], answer["offset"]))

        self._ask("chat.resume", {"sessionKey": chat.session, "runIds": [chat.run_id]}, settle)

    def _knows(self, method: str) -> bool:
        return self._link is not None and self._link.knows(method)

    def _forget(self, chat: Chat) -> None:
        if self._chats.get(chat.run_id) is chat:
            del self._chats[chat.run_id]


class Chat:
    """An answer as it comes: an asynchronous iterator over its chunks, for one reader.

    It ends once: the iteration stops after a whole answer, else it raises RunFailed, RunInterrupted, RunTimedOut, Aborted, or
    what kept the message from being accepted. Chunks that are not fetched in time are joined. To stop the run also when the
    loop is left early, use `async with client.chat(...) as chat: async for chunk in chat`.
    """

    def __init__(self, client: Client, params: Payload, timeout: float, abort_on_cancel: bool) -> None:
        self._client = client
        self.params = params
        #: The run's id, for `chat.abort` and in events. It is the idempotency key, unless another run had that.
        self.run_id: str = params["idempotencyKey"]
        #: What has been said so far.
        self.text = ""
        #: Why a whole answer stopped, as the model says; `rpc`, `stop` or `timeout` for one that was cut short.
        self.stop_reason: Optional[str] = None
        #: How many runs of the session came before it, when it had to wait.
        self.place: Optional[int] = None
        #: The run that answers this message together with its own; then this one ends without a text.
        self.absorbed_by: Optional[str] = None
        #: The session's key, as events have it.
        self.session: str = params["sessionKey"]
        #: A connection was lost while it was under way, or it was under way before: the gateway may have ended meanwhile.
        self.crossed = False
        self._timeout = timeout
        self._abort_on_cancel = abort_on_cancel
        self._call: Optional[_Call] = None
        self._accepted = False
        self._looking = False
        self._ended = False
        self._error: Optional[GatewayError] = None
        self._fresh: List[str] = []
        self._replaces = False
        #: The first half of a character whose second half is in the next piece.
        self._half = ""
        #: The text has been heard from its beginning.
        self._from_start = False
        #: Events up to here are in the text already.
        self._seen: Optional[_Place] = None
        self._wake = asyncio.Event()

    @property
    def may_run(self) -> bool:
        """Whether the gateway may have taken it: it was sent, and has not ended."""
        return not self._ended and self._call is not None and (self._accepted or self._call.sent)

    # ---- the reader's side ----

    def __aiter__(self) -> Chat:
        return self

    async def __anext__(self) -> Chunk:
        self._begin()
        try:
            while not self._fresh and not self._ended:
                self._wake.clear()
                await self._wake.wait()
        except asyncio.CancelledError:
            self._leave()
            raise
        if self._fresh:
            chunk = Chunk("".join(self._fresh), self._replaces)
            self._fresh, self._replaces = [], False
            return chunk
        error, self._error = self._error, None
        if error:
            raise error
        raise StopAsyncIteration

    async def __aenter__(self) -> Chat:
        self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    async def read(self) -> str:
        """Waits for the end, and returns the whole text."""
        async for _ in self:
            pass
        return self.text

    async def abort(self) -> bool:
        """Stops the run; the iteration then raises `Aborted`. Returns whether there was something to stop."""
        answer = await self._client.request("chat.abort", {"sessionKey": self.session, "runId": self.run_id})
        return bool(answer["aborted"])

    def _begin(self) -> None:
        if not self._call and not self._ended:
            self._call = self._client._begin(self, self._timeout, self._on_answer)

    def _leave(self) -> None:
        """Nobody reads any more. What was never sent is not sent; what may run is stopped, by choice."""
        if self._ended or not self._call:
            return
        may_run = self.may_run
        self.end(None)
        if not may_run or self._abort_on_cancel:
            self._client._drop(self._call)
        if may_run and self._abort_on_cancel:
            with contextlib.suppress(GatewayError):
                self._client._ask("chat.abort", {"sessionKey": self.session, "runId": self.run_id}, lambda *_: None, timeout=30.0)

    # ---- the connection's side ----

    def _on_answer(self, answer: Any, error: Optional[GatewayError]) -> None:
        if self._ended:
            return
        if isinstance(error, RequestRefused) and isinstance(error.payload, dict) and error.payload.get("runId"):
            # The key's run has ended badly: how, its record knows.
            answer, error = error.payload, None
        if error:
            return self.end(error)
        if "runId" not in answer:
            # A word that stops others, such as /stop, begins no run.
            return self.end(None)
        self._accepted = True
        if answer["runId"] != self.run_id:
            self._client._renamed(self, answer["runId"])
        status = answer.get("status")
        if status == "started":
            return
        # It was under way before, or has ended: what was said of it may not have been heard here.
        self.crossed = True
        if self._client._knows("chat.resume"):
            self._look()
        elif status == "ok":
            self.end(GatewayError("the run has ended before, and this gateway cannot tell again what was said"))
        elif status == "error":
            self._end_as("failed", answer.get("summary"))

    def _look(self) -> None:
        if not self._ended and not self._looking:
            self._looking = True
            self._client._look(self)

    def hear(self, event: str, payload: Payload) -> None:
        """Takes an event of this run."""
        self.session = payload.get("sessionKey", self.session)
        seen = self._seen
        if seen and payload.get("epoch") == seen.epoch and payload.get("offset", 0) <= seen.offset:
            return
        self._accepted = True
        if event == "agent":
            return self._hear_agent(str(payload.get("stream")), payload.get("data") or {})
        state = payload.get("state")
        if state not in ("final", "aborted", "error"):
            return
        message = _text_of(payload.get("message"))
        if message:
            self._agree(message)
        self.stop_reason = payload.get("stopReason")
        if state == "final":
            self.end(None)
        elif state == "aborted":
            self._end_as("timedOut" if self.stop_reason == "timeout" else "aborted", None)
        elif self.crossed and self._client._knows("chat.resume"):
            # Failed, or cut off by the end of the gateway: the event is the same, the record is not.
            self._look()
        else:
            self._end_as("failed", payload.get("errorMessage"))

    def _hear_agent(self, stream: str, data: Payload) -> None:
        if stream == "lifecycle" and data.get("phase") == "start":
            self._from_start = True
            if self.text:
                # It begins once more.
                self._agree("")
        elif stream == "queue":
            self.place = data.get("place", self.place)
            self.absorbed_by = data.get("absorbedBy")
        elif stream == "assistant":
            if not self._from_start and not self._seen and self._client._knows("chat.resume"):
                # The middle of an answer: it is to be had from its beginning.
                return self._look()
            self._add(str(data.get("delta", "")))

    def see(self, run: Optional[Payload], place: _Place) -> None:
        """Takes how the run stands at a place of its session's stream."""
        if self._ended:
            return
        self._looking = False
        if run is None:
            # Sent, and not there: either it never arrived and is being sent again, or its record is gone.
            if self._accepted:
                self._end_as("interrupted", "the gateway no longer knows the run")
            return
        self._accepted = True
        self._seen = place
        text, state = _whole(str(run.get("text", ""))), str(run.get("state"))
        heard = self.text + self._half
        under_way = state in ("admitted", "started")
        # A run that was cut off may have been heard further than it was kept, and one that is to be settled has no text yet.
        if text and (text.startswith(heard) or state == "completed" or (under_way and not heard.startswith(text))):
            self._agree(text)
        self.absorbed_by = run.get("absorbedBy", self.absorbed_by)
        if not under_way:
            self._end_as(state, run.get("error"))

    def _add(self, piece: str) -> None:
        text = _whole(self._half + piece)
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        text = text[: len(text) - len(self._half)]
        if text:
            self.text += text
            self._fresh.append(text)
            self._wake.set()

    def _agree(self, text: str) -> None:
        """Makes what has been said equal to what it is known to be."""
        heard = self.text + self._half
        if text.startswith(heard):
            return self._add(text[len(heard):])
        self.text = self._half = ""
        self._fresh = []
        self._replaces = True
        self._add(text)

    def _end_as(self, state: str, why: Any) -> None:
        words = str(why) if why else ""
        if state == "completed":
            self.end(None)
        elif state == "aborted":
            self.end(Aborted(words or "the run was stopped", self.run_id, self.text))
        elif state == "timedOut":
            self.end(RunTimedOut(words or "the run reached its deadline", self.run_id, self.text))
        elif state == "interrupted":
            self.end(RunInterrupted(words or "the gateway stopped during the run", self.run_id, self.text))
        else:
            self.end(RunFailed(words or "the run failed", self.run_id, self.text))

    def end(self, error: Optional[GatewayError]) -> None:
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._client._forget(self)
        self._wake.set()


class Run:
    """A turn that this side answers."""

    def __init__(self, connector: Connector, asked: Payload, params: Payload) -> None:
        self.run_id = str(params.get("runId", ""))
        self.session_key = str(params.get("sessionKey", ""))
        self.agent_id = str(params.get("agentId", ""))
        #: What was said last.
        self.message = str(params.get("message", ""))
        #: What was said, oldest first, the message included: {role: user, assistant or tool, text, ...}.
        self.history: List[Payload] = list(params.get("messages") or ())
        #: The instructions of the agent, from its workspace.
        self.system = str(params.get("system", ""))
        self.thinking = str(params.get("thinking", "off"))
        #: What `call` may call: {name, description, parameters}.
        self.tools: List[Payload] = list(params.get("tools") or ())
        #: Nobody waits for the answer any more; whoever writes it is cancelled.
        self.cancelled = False
        #: What is told at the end: input and output tokens, for one.
        self.usage: Dict[str, int] = {}
        self._connector = connector
        self._id = str(asked["id"])
        self._node = str(asked["nodeId"])
        #: In UTF-16: offsets count its units.
        self._said = bytearray()
        #: Asked on the connection there is: it may be spoken of.
        self._asked = asyncio.Event()
        self._asked.set()
        #: How it ended, until the gateway has heard.
        self._result: Optional[Payload] = None
        self._writing: Optional[asyncio.Task[None]] = None

    async def say(self, piece: str) -> None:
        """Says the next piece. Returns when the gateway has it, or at once while it is away: then it gets it later."""
        at = len(self._said)
        self._said += piece.encode("utf-16-le")
        await asyncio.gather(*self._tell(at))

    async def think(self, piece: str) -> None:
        """Says a piece of the reasoning, which is lost while the gateway is away."""
        await self._event("agent.reasoning", {"id": self._id, "text": piece})

    async def call(self, tool: str, **arguments: Any) -> str:
        """Calls a tool, over lost connections; it is called once.

        :raises ToolFailed: in the words of the tool
        """
        params = {"id": self._id, "callId": str(uuid.uuid4()), "name": tool, "arguments": arguments}
        outcome = await self._invoke(params)
        if outcome["isError"]:
            raise ToolFailed(outcome["text"])
        return str(outcome["text"])

    async def send(self, agent_id: str, message: str) -> str:
        """Sends another agent a message, and returns its answer; what the gateway had to cut, as it is.

        :raises ToolFailed: it could not be sent, or there is no answer yet: then that comes as a message of its own
        """
        text = await self.call("sessions_send", agentId=agent_id, message=message)
        try:
            answer = json.loads(text)
        except ValueError:
            return text
        if not isinstance(answer, dict):
            return text
        if "reply" not in answer:
            raise ToolFailed(str(answer.get("note", text)))
        return str(answer["reply"])

    async def _invoke(self, params: Payload) -> Payload:
        """Calls a tool, again when it was cut off and this is asked for again: a gateway that does not ask knows nothing of it."""
        while True:
            await self._asked.wait()
            try:
                outcome: Payload = await self._connector.request("tools.invoke", params, timeout=0, repeatable=False)
                return outcome
            except ConnectionLost:
                if self._connector._over:
                    raise
                self._asked.clear()

    def _event(self, event: str, payload: Payload) -> asyncio.Future[bool]:
        return self._connector._tell(self, "node.event", {"event": event, "payload": payload})

    def _tell(self, at: int) -> List[asyncio.Future[bool]]:
        """Tells the text from a byte of it on, in parts that no frame is too small for."""
        text = self._said[at:].decode("utf-16-le", "surrogatepass")
        told = []
        for start in range(0, len(text), _MOST_TOLD):
            part = text[start:start + _MOST_TOLD]
            told.append(self._event("agent.delta", {"id": self._id, "offset": at // 2, "text": part}))
            at += len(part.encode("utf-16-le", "surrogatepass"))
        return told

    async def _finish(self) -> None:
        if self._result is not None and await self._connector._tell(
            self, "node.invoke.result", {"id": self._id, "nodeId": self._node, **self._result}
        ):
            self._connector._runs.pop(self._id, None)


class Connector(Client):
    """An agent of the gateway, in place of a model: the one whose config entry has `runtime: {type: "connector"}` and its name.

    What was said of an answer outlives a lost connection: it goes on to the letter when the gateway asks again.

    :param answer: called with each `Run`, several at a time if need be. What it raises is the error of the run.
    :param device: its key. The gateway pairs it once: from here that needs the shared token only, from elsewhere somebody's word.
    :param name: the name it is to be paired under: the id or the name of the agent.
    :param forget_after: how long after a reconnect an answer that was not asked for again is taken for unwanted, in seconds.
    :param options: further ones of `Client`.
    """

    def __init__(
        self,
        answer: Callable[[Run], Awaitable[None]],
        url: Optional[str] = None,
        token: Optional[str] = None,
        *,
        device: Device,
        name: str,
        forget_after: float = 60.0,
        **options: Any,
    ) -> None:
        info = {"id": "node-host", "mode": "node", "displayName": name}
        super().__init__(url, token, device=device, scopes=(), info=info, **options)
        self._role, self._caps, self._commands = "node", ["agent"], ["agent.run"]
        self._answer = answer
        self._forget_after = forget_after
        self._runs: Dict[str, Run] = {}
        #: Told when what was said has been heard, or cannot be now.
        self._telling: Set[asyncio.Future[bool]] = set()
        self._forgetting: Optional[asyncio.TimerHandle] = None
        self.on("node.invoke.request", self._request)
        self.on("node.invoke.cancel", lambda cancelled: self._give_up(self._runs.get(str(cancelled.get("id")))))

    async def serve(self) -> None:
        """Answers until there will be no connection any more.

        :raises GatewayError: why there will be none
        """
        if self._keeping:
            await asyncio.wait({self._keeping})
        if self._over:
            raise self._over

    def _request(self, asked: Payload) -> None:
        params: Payload = json.loads(asked.get("paramsJSON") or "{}")
        received = int(params.get("received", 0))
        begun = received > 0 or int(params.get("called", 0)) > 0
        run = self._runs.get(str(asked["id"]))
        if run:
            # It was away, and asks again, from where it has got to.
            run._asked.set()
            run._tell(2 * received)
            asyncio.ensure_future(run._finish())
            return
        run = Run(self, asked, params)
        for other in list(self._runs.values()):
            # A gateway that was started anew begins a run again: nobody waits for what was written for the one before it.
            if other.run_id == run.run_id and not other._asked.is_set():
                self._give_up(other)
        self._runs[str(asked["id"])] = run
        if asked.get("command") != "agent.run" or begun:
            # Another process said what was received, or called tools for it, and nobody here can go on with it.
            words = "the beginning of this answer is lost" if begun else f"there is no {asked.get('command')} here"
            run._result = _failed(words)
            asyncio.ensure_future(run._finish())
            return
        run._writing = asyncio.ensure_future(self._write(run))

    async def _write(self, run: Run) -> None:
        try:
            await self._answer(run)
            run._result = {"ok": True, "payload": {"usage": run.usage}}
        except asyncio.CancelledError:
            if run.cancelled:
                return
            raise
        except Exception as error:
            _log.debug("an answer failed", exc_info=True)
            run._result = _failed(_words(error))
        if not run.cancelled:
            await run._finish()

    def _tell(self, run: Run, method: str, params: Payload) -> asyncio.Future[bool]:
        """Tells the gateway something of an answer. What is not heard is told again when it asks again."""
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not run._asked.is_set():
            told.set_result(False)
            return told

        def settle(payload: Any, error: Optional[GatewayError]) -> None:
            self._telling.discard(told)
            if not told.done():
                told.set_result(error is None)
            if error or (isinstance(payload, dict) and (payload.get("ignored") or payload.get("handled") is False)):
                self._give_up(run)
            if error and not (isinstance(error, RequestRefused) and error.code == "NOT_YOUR_RUN") and not self._over:
                # It does not take what was said, and nothing that is said later would fit.
                result = {"id": run._id, "nodeId": run._node, **_failed(_words(error))}
                self._ask("node.invoke.result", result, lambda *_: None, momentary=True)

        self._telling.add(told)
        self._ask(method, params, settle, momentary=True)
        return told

    def _give_up(self, run: Optional[Run]) -> None:
        """Nobody waits for an answer any more."""
        if not run or self._runs.pop(run._id, None) is not run:
            return
        run.cancelled = True
        if run._writing and not run._writing.done():
            run._writing.cancel()

    def _catch_up(self, link: _Link) -> None:
        super()._catch_up(link)
        waiting = list(self._runs.values())

        def forget() -> None:
            for run in waiting:
                if not run._asked.is_set():
                    self._give_up(run)

        self._forgetting = asyncio.get_running_loop().call_later(self._forget_after, forget)

    def _lost(self) -> None:
        if self._forgetting:
            self._forgetting.cancel()
        for run in self._runs.values():
            run._asked.clear()
        super()._lost()
        for told in self._telling:
            if not told.done():
                told.set_result(False)
        self._telling.clear()

    def _end(self, error: GatewayError) -> None:
        super()._end(error)
        for run in list(self._runs.values()):
            self._give_up(run)


def _failed(words: str) -> Payload:
    return {"ok": False, "error": {"code": "CONNECTOR_FAILED", "message": words}}


class DeviceKey:
    """A device whose Ed25519 key lies in a file. Needs the `cryptography` package."""

    def __init__(self, path: str) -> None:
        """Reads the key, or makes one that only its owner may read."""
        from hashlib import sha256

        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        try:
            with open(path, "rb") as file:
                seed = file.read()
        except FileNotFoundError:
            made = Ed25519PrivateKey.generate()
            seed = made.private_bytes(form.Encoding.Raw, form.PrivateFormat.Raw, form.NoEncryption())
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(seed)
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        raw = self._key.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
        self.id = sha256(raw).hexdigest()
        self.public_key = _base64url(raw)

    def sign(self, payload: bytes) -> bytes:
        return self._key.sign(payload)


async def _write(link: _Link) -> None:
    """Writes what is to be sent, in order. A socket that takes no more is found out by whoever reads it."""
    while True:
        call, text = await link.outbox.get()
        try:
            if not call.dropped:
                call.sent = True
                await link.socket.send(text)
        except ConnectionClosed:
            return
        finally:
            link.outbox.task_done()


async def _watch(link: _Link, silence: float) -> None:
    """Ends a connection on which nothing, not even a tick, was heard for so many seconds."""
    loop = asyncio.get_running_loop()
    while True:
        left = link.heard_at + silence - loop.time()
        if left <= 0:
            return link.end(f"nothing was heard for {silence:g} s")
        await asyncio.sleep(left)


async def _next_frame(socket: Socket) -> Payload:
    """The next frame of a handshake, which must not take longer than ten seconds."""
    frame = json.loads(await asyncio.wait_for(socket.recv(), 10))
    if not isinstance(frame, dict):
        raise ConnectionLost("this is no gateway: its first frames are no objects")
    return frame


def _turned_away(error: InvalidHandshake) -> Optional[RequestRefused]:
    """The refusal behind an upgrade that was answered with an HTTP status; None if there is nothing to be read from it."""
    answer = getattr(error, "response", error)
    status, headers = getattr(answer, "status_code", None), getattr(answer, "headers", None) or {}
    if not isinstance(status, int):
        return None
    after = str(headers.get("Retry-After") or "")
    return RequestRefused({
        # What stands in the way of 5xx and 429 may pass; the rest will not without somebody's doing.
        "code": "UNAVAILABLE" if status >= 500 or status in (408, 425, 429) else "INVALID_REQUEST",
        "message": f"the upgrade was answered with HTTP {status}",
        "retryAfterMs": int(after) * 1000 if after.isdigit() else None,
    })


def _encode(call: _Call) -> str:
    """The frame of a request.

    :raises ValueError: when it is no JSON, or holds half a character
    """
    frame = {"type": "req", "id": call.id, "method": call.method, "params": call.params}
    text = json.dumps(frame, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text.encode()
    return text


def _listen(handlers: List[_H], handler: _H) -> Callable[[], None]:
    """Adds a handler, and returns what takes it away again."""
    handlers.append(handler)

    def leave() -> None:
        with contextlib.suppress(ValueError):
            handlers.remove(handler)

    return leave


def _guarded(handler: Callable[[Any], None], what: Any) -> None:
    """Calls a handler. What it throws is its own trouble, not that of the connection."""
    try:
        handler(what)
    except Exception:
        _log.exception("a handler failed")


def _whole(text: str) -> str:
    """Joins the two halves of characters that JSON brought apart. A last half whose other is yet to come stays."""
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    last = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    rest = text[: len(text) - len(last)]
    return rest.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") + last


def _text_of(message: Any) -> Optional[str]:
    """The text of a message as transcripts have it: a string, or parts of which some are text. None: it has none."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return _whole(content)
    if not isinstance(content, list):
        return None
    return _whole("".join(str(part.get("text", "")) for part in content if isinstance(part, dict) and part.get("type") == "text"))


def _seconds(ms: Any) -> Optional[float]:
    return ms / 1000 if isinstance(ms, (int, float)) and ms > 0 else None


def _base64url(data: bytes) -> str:
    from base64 import urlsafe_b64encode

    return urlsafe_b64encode(data).decode().rstrip("=")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _say(options: argparse.Namespace) -> None:
    async with Client(options.url, options.token, connect_timeout=options.wait, give_up_after=60.0) as client:
        async for chunk in client.chat(options.session, options.message):
            # A terminal cannot take back what it shows; the whole answer follows on a line of its own.
            print(("\n" if chunk.replaces else "") + chunk.text, end="", flush=True)
        print()


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Says one thing and prints the answer. Exit codes: 0, 1 refused or failed, 69 no gateway, 130 stopped with Ctrl-C."""
    parser = argparse.ArgumentParser(description="Says one thing to an agent and prints the answer as it comes.")
    parser.add_argument("message")
    parser.add_argument("--url", help="else OPENCLAW_GATEWAY_URL, else ws://127.0.0.1:18789")
    parser.add_argument("--token", help="else OPENCLAW_GATEWAY_TOKEN, which other users of the machine cannot see")
    parser.add_argument("--session", default="main", help="the session's key (main)")
    parser.add_argument("--wait", type=float, default=5.0, help="seconds to wait for a gateway that does not answer (5)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "warning").upper(), format="%(message)s")
    try:
        asyncio.run(_say(options))
        return 0
    except KeyboardInterrupt:
        return 130
    except ConnectionLost as error:
        print(error, file=sys.stderr)
        return 69
    except GatewayError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
