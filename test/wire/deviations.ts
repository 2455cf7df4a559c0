/** Every way in which this gateway answers otherwise than was recorded, and why. */
import type { Difference } from './values.ts'

export interface Deviation {
  /** Recordings, without `.json`; `*` stands for anything. */
  file: string | string[]
  /** The part, or the member of a part, that differs; `*` stands for anything. */
  where: string
  kind?: Difference['kind']
  /** What stands there here. Compared if given. */
  here?: unknown
  /** Whether it depends on time, so that a replay may come without it. */
  sometimes?: true
  reason: string
  /** The promise it follows from: a row of the guarantees, or a section of the wire's facts. */
  guarantee: string
}

/** Where a busy session's further messages went in the recordings. */
const BUSY = ['chat-same-session-overlap', 'chat-queue-modes', 'v4/chat-overlap']
const MODEL_ERRORS = ['chat-provider-error*', 'chat-provider-cut', 'agent-run-error']
const ABORTED = ['chat-abort-*', 'chat-history-after-abort', 'chat-stop-command']

export const DEVIATIONS: Deviation[] = [
  // Everywhere.
  {
    file: [
      ...['chat-*', 'connect-*', 'cron', 'agent-run*', 'errors', 'sessions', 'node*', 'v4/errors'],
      ...['config', 'devices', 'exec-approvals', 'health-status', 'scopes', 'life-*'],
      ...['catalog', 'health-status', 'send', 'wizard'],
    ],
    where: '* › error.details',
    kind: 'extra',
    reason: 'The precise name of a failure is in details.code; protocol 3 has five codes only.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: '*',
    where: '*.text',
    kind: 'untrimmed',
    reason: "The text is the model's to the last blank: streamed, final and kept are byte-equal.",
    guarantee: 'G5',
  },

  {
    file: 'connect-*',
    where: '* connect 1 › payload.features.methods',
    kind: 'extra',
    here: [
      ...['agents.status', 'sessions.subscribe', 'sessions.describe', 'sessions.get', 'sessions.create', 'chat.resume'],
      ...['commands.list', 'chains.get', 'chains.list', 'messages.list', 'messages.get', 'usage.by'],
      ...['sessions.messages.subscribe', 'sessions.messages.unsubscribe', 'sessions.send', 'sessions.steer'],
      ...['sessions.abort', 'cron.get'],
    ],
    reason:
      'What this gateway has beyond the reference is announced among the methods, and so is what is of protocol 4.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'v4/connect-*',
    where: '* connect 1 › payload.features.events',
    kind: 'extra',
    here: ['agent.message'],
    reason: 'What this gateway has beyond the reference. It is sent to connections with the cap stream-offsets only.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'connect-*',
    where: '* connect 1 › payload.features.events',
    kind: 'extra',
    here: ['agent.message', 'sessions.changed', 'session.message'],
    reason: 'The same among the events. Each is sent to connections that asked for it only.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'connect-scope-upgrade',
    where: '* connect 1 › payload.snapshot.*',
    kind: 'missing',
    reason: 'Paths of the machine are told to those who may change it, as protocol 4 does.',
    guarantee: 'T28',
  },

  // connect: who is let in.
  {
    file: ['connect-bad-client-id', 'connect-bad-client-mode'],
    where: 'A connect 1 › *',
    reason: 'client.id and client.mode are open: newer clients have names of their own.',
    guarantee: 'section 11 of the wire, 2',
  },
  {
    file: ['connect-bad-client-id', 'connect-bad-client-mode', 'connect-protocol-too-new', 'v4/connect-v3-rejected'],
    where: 'A close',
    reason: 'Who is admitted stays.',
    guarantee: 'section 11 of the wire, 1 and 2',
  },
  {
    file: 'connect-bad-schema',
    where: 'A connect 1 › error.message',
    here: "invalid connect params: at /client: must have required property 'version'",
    reason: 'Unknown members of connect are ignored; a missing one is refused in the same words.',
    guarantee: 'Settled: T12',
  },
  {
    file: 'connect-bad-schema',
    where: 'A close',
    here: { code: 1008, reason: "invalid connect params: at /client: must have required property 'version'" },
    reason: 'The close says what the answer says.',
    guarantee: 'Settled: T12',
  },
  {
    file: 'connect-any-origin-other-client',
    where: 'A upgrade',
    here: 403,
    reason: 'A foreign Origin is refused before the upgrade, whatever the client calls itself.',
    guarantee: 'T1',
  },
  {
    file: 'connect-webchat-bad-origin',
    where: 'A upgrade',
    here: 403,
    reason: 'A foreign Origin is refused before the upgrade.',
    guarantee: 'T1',
  },
  {
    file: 'connect-ok-device-v1',
    where: 'A connect 1 *',
    reason: 'A nonce is always required: `device nonce required`.',
    guarantee: 'T22',
  },
  {
    file: 'connect-ok-device-v1',
    where: 'A close',
    here: { code: 1008, reason: 'device nonce required' },
    reason: 'A nonce is always required.',
    guarantee: 'T22',
  },
  {
    file: 'connect-timeout',
    where: 'A close',
    here: { code: 1008, reason: 'handshake timeout' },
    reason: 'A close of ours says why.',
    guarantee: 'T6',
  },
  {
    file: 'connect-scopes',
    where: 'A system-presence 2 *',
    reason: 'An empty list of scopes is nothing, not everything.',
    guarantee: 'T17',
  },
  {
    file: 'connect-remote-host-header',
    where: 'B connect 1 › *',
    reason: 'From afar, without Origin, a right shared token is admitted on its own grant; the device gets no token.',
    guarantee: 'Decided: off loopback',
  },
  {
    file: 'connect-remote-host-header',
    where: 'B close',
    reason: 'Who is admitted stays.',
    guarantee: 'Decided: off loopback',
  },

  // connect: protocols.
  {
    file: 'connect-protocol-range-covers',
    where: 'A connect 1 › payload.*',
    reason: 'The highest protocol of the range is spoken: 4, with its members and limits.',
    guarantee: 'section 11 of the wire, 1',
  },
  {
    file: ['connect-protocol-too-new', 'v4/connect-v3-rejected'],
    where: 'A connect 1 › *',
    reason: 'Both protocols are served.',
    guarantee: 'section 11 of the wire, 1',
  },
  {
    file: 'connect-protocol-too-old',
    where: 'A connect 1 › error.details.*',
    kind: 'extra',
    reason: 'A mismatch has its code and what the client asked for, as protocol 4 has it.',
    guarantee: 'section 11 of the wire, 1',
  },

  // connect: hello-ok.
  {
    file: 'connect-*',
    where: '* connect 1 › payload.features.*',
    kind: 'missing',
    reason: 'Only what is served is announced.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'connect-*',
    where: '* connect 1 › payload.canvasHostUrl',
    kind: 'missing',
    reason: 'There is no canvas.',
    guarantee: 'section 9 of the wire',
  },
  {
    file: ['connect-ok-token-no-device', 'health-status'],
    where: 'A health',
    kind: 'missing',
    reason: '`health` is not sent on each connect.',
    guarantee: 'Settled: G17',
  },
  {
    file: 'v4/connect-*',
    where: 'A connect 1 › payload.features.*',
    kind: 'missing',
    reason: 'Only what is served is announced.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'v4/connect-*',
    where: 'A connect 1 › payload.auth.method',
    kind: 'missing',
    reason: 'The schema of 2026.9.1 refuses it.',
    guarantee: 'section 11 of the wire',
  },
  ...['auth.recovery*', 'controlUi*', 'pluginSurfaceUrls', 'server.*', 'policy.allowed*', 'policy.attachments'].map(
    optionalInHello,
  ),
  ...['policy.hasMultiple*', 'snapshot.*'].map(optionalInHello),
  {
    file: 'v4/connect-*',
    where: 'A connect 1 › payload.policy.max*',
    kind: 'changed',
    reason: 'The limits are our own, and are said.',
    guarantee: 'T7, G9',
  },
  {
    file: 'v4/connect-*',
    where: 'A connect 1 › payload.snapshot.presence.0.modelIdentifier',
    kind: 'extra',
    reason: 'The gateway lists itself as in protocol 3.',
    guarantee: 'section 3 of the wire',
  },
  {
    file: 'v4/connect-device-*',
    where: 'A connect 1 › payload.snapshot.*',
    kind: 'extra',
    reason: 'Where the state is, each operator is told, as in protocol 3.',
    guarantee: 'section 3 of the wire',
  },
  {
    file: 'v4/*',
    where: '* connect.challenge › payload.capabilities',
    kind: 'missing',
    reason: 'Optional, and none of them is served.',
    guarantee: 'section 11 of the wire',
  },

  {
    file: 'v4/connect-*',
    where: 'A connect 1 › payload.snapshot.presence.length',
    here: 2,
    reason: 'Who connects is listed at once, as in protocol 3.',
    guarantee: 'section 3 of the wire',
  },

  // Jobs.
  {
    file: 'cron',
    where: 'A cron.add 12 › error.code',
    here: 'INVALID_REQUEST',
    reason: 'What does not go together will not go together later either.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'cron',
    where: 'A cron.add 12 › error.message',
    here: 'isolated cron jobs require payload.kind="agentTurn"',
    reason: 'The same words, without the name of a class before them.',
    guarantee: 'section 1 of the guarantees',
  },

  {
    file: 'scopes',
    where: '* cron.run 14 › error.code',
    here: 'INVALID_REQUEST',
    reason: 'A job that is not there will not be there later either.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'scopes',
    where: '* cron.run 14 › error.message',
    here: 'unknown cron job id: x',
    reason: 'The same words, without the name of a class before them.',
    guarantee: 'section 1 of the guarantees',
  },

  // Runs that are stopped or fail.
  {
    file: ABORTED,
    where: 'A run * lifecycle end',
    kind: 'extra',
    reason: 'Every run ends with lifecycle, then chat, once each.',
    guarantee: 'section 5 of the wire, Here',
  },
  {
    file: 'chat-abort-run',
    where: 'A chat.send 5 *',
    reason: 'The key of another message is refused: IDEMPOTENCY_KEY_REUSED.',
    guarantee: 'G4',
  },
  {
    file: 'chat-abort-session',
    where: 'A chat.abort * › *',
    reason: 'A session is the same one however it is spelled, so the first abort finds its run and the others nothing.',
    guarantee: 'section 7 of the wire, Here',
  },
  {
    file: 'chat-history-after-abort',
    where: 'A chat.history 4 › payload.messages.length',
    here: 2,
    reason: 'History keeps the message and the partial text.',
    guarantee: 'section 5 of the wire, Here',
  },
  {
    file: 'chat-timeout',
    where: 'A run run-tmo-1 *',
    reason: 'timeoutMs is honoured: the run ends aborted, `timeout`.',
    guarantee: 'section 5 of the wire, Here',
  },
  {
    file: 'chat-timeout',
    where: 'A chat.history 3 › payload.messages.1.*',
    reason: 'The partial text is kept with `timeout`; what the model would have counted is not known.',
    guarantee: 'section 5 of the wire, Here',
  },
  {
    file: MODEL_ERRORS,
    where: 'A run * lifecycle end',
    kind: 'missing',
    reason: 'A failure ends with lifecycle `error`.',
    guarantee: '0.7 of the wire',
  },
  {
    file: MODEL_ERRORS,
    where: 'A run * lifecycle error',
    kind: 'extra',
    reason: 'A failure ends with lifecycle `error` and the words of the model.',
    guarantee: '0.7 of the wire',
  },
  {
    file: MODEL_ERRORS,
    where: 'A run * chat final',
    kind: 'missing',
    reason: 'A failure is not shown as an empty success.',
    guarantee: '0.7 of the wire',
  },
  {
    file: MODEL_ERRORS,
    where: 'A run * chat error',
    kind: 'extra',
    reason: 'A failure is said, in the words of the model.',
    guarantee: '0.7 of the wire',
  },
  {
    file: 'chat-provider-error',
    where: 'A chat.send 3 *',
    reason: 'A repeat of a key that failed is answered with the stored error.',
    guarantee: 'G4',
  },
  {
    file: ['chat-provider-error', 'chat-provider-cut'],
    where: 'A chat.history * › payload.messages.1.*',
    reason: 'The entry has the words of the model, and all of the text that came; no usage was reported.',
    guarantee: '0.7 of the wire',
  },
  {
    file: 'agent-run-error',
    where: 'A agent 2 #2 *',
    reason: 'The result of a failed run is the failure.',
    guarantee: '0.7 of the wire',
  },
  {
    file: 'agent-run-error',
    where: 'A agent.wait 3 *',
    reason: 'A failed run is waited for with `error` and its words.',
    guarantee: '0.7 of the wire',
  },

  // Busy sessions.
  {
    file: BUSY,
    where: '* run unknown *',
    kind: 'missing',
    reason: 'The answer to a waiting message comes under its own run id.',
    guarantee: '0.5 of the wire, G7',
  },
  {
    file: BUSY,
    where: 'A run * *',
    kind: 'extra',
    reason: 'A waiting message has a whole run of its own, under its own run id.',
    guarantee: '0.5 of the wire, G7',
  },
  {
    file: 'chat-queue-modes',
    where: 'A run * chat final › payload.message.content.0.text',
    kind: 'changed',
    reason:
      '`/queue` answers in words of our own. The final of a run that was joined has all of its text, also what came before.',
    guarantee: 'G7',
  },
  {
    file: 'chat-queue-modes',
    where: 'A chat.history * › payload.messages.0.content.0.text',
    kind: 'changed',
    reason: '`/queue` answers in words of our own.',
    guarantee: 'G7',
  },
  {
    file: 'chat-queue-modes',
    where: 'A chat.history 9 › payload.messages.*',
    reason:
      'A message that steers is heard at once, in the middle of a sentence; the run it joined has one entry, with all of its text.',
    guarantee: 'G7',
  },
  {
    file: 'chat-queue-modes',
    where: 'A chat.history 13 › payload.messages.*',
    reason: 'What a run had said before it was interrupted stays in the transcript.',
    guarantee: 'G7',
  },
  {
    file: 'v4/chat-overlap',
    where: 'A run v4b-3 chat final › payload.message.content.0.text',
    kind: 'changed',
    reason: 'A second message does not join the run of the first.',
    guarantee: 'G7',
  },

  // Idempotency.
  {
    file: 'chat-idempotency',
    where: 'B chat.send * › payload.*',
    reason: 'A key counts for one session: in another it is another turn, under a run id of the gateway.',
    guarantee: 'G3, T26',
  },
  {
    file: 'chat-idempotency',
    where: '* run unknown 1 *',
    kind: 'extra',
    reason: 'The other session has its own turn.',
    guarantee: 'G3, T26',
  },
  {
    file: 'agent-run',
    where: 'A agent 3 #2',
    kind: 'extra',
    reason: 'A repeat while the run is under way is answered twice, too: accepted, then the result.',
    guarantee: 'G4',
  },

  {
    file: 'agent-run',
    where: 'A answers and events',
    sometimes: true,
    reason: 'The result and what waits for it are answered at the end of the run; which is first is a matter of time.',
    guarantee: 'section 2 of the wire',
  },

  // Session keys.
  {
    file: ['chat-idempotency', 'chat-two-connections'],
    where: 'B run * › payload.sessionKey',
    here: 'agent:main:main',
    reason: 'A connection that did not address the session hears its canonical key.',
    guarantee: 'section 7 of the wire, Here',
  },
  {
    file: 'chat-session-keys',
    where: 'A run * › payload.sessionKey',
    reason: 'A connection of protocol 3 hears the very spelling it used, also its capitals.',
    guarantee: 'section 7 of the wire, Here',
  },
  {
    file: 'chat-session-keys',
    where: 'A chat.send 7 *',
    reason: 'An unknown agent is refused, naming the known ones.',
    guarantee: 'section 7 of the wire, Here',
  },
  {
    file: 'chat-session-keys',
    where: 'A run run-sk-agent:other:main*',
    kind: 'missing',
    reason: 'An unknown agent has no runs.',
    guarantee: 'section 7 of the wire, Here',
  },
  {
    file: 'chat-session-keys',
    where: 'A sessions.list 13 › payload.sessions.agent:main:*',
    reason: 'A bare key is a session of the default agent, whatever word it is; none is special.',
    guarantee: 'section 7 of the wire, Here',
  },
  {
    file: 'chat-bare-key-mismatch',
    where: 'A chat.history 3 › payload.*',
    reason: 'What was sent to a bare key is read by it.',
    guarantee: '0.4 of the wire, section 7 of the wire, Here',
  },

  // Commands and tools.
  {
    file: 'chat-slash-command',
    where: 'A run run-cmd-1 chat final › payload.message.content.0.text',
    reason: '`/status` describes this gateway.',
    guarantee: 'section 5 of the wire',
  },
  {
    file: 'chat-reset-command',
    where: 'A chat.history 3 › payload.messages.0.content.0.text',
    reason: 'The greeting is asked for in our own words.',
    guarantee: 'section 5 of the wire',
  },
  {
    file: 'chat-tool-events',
    where: 'A run run-tool-1 tool * › seq',
    kind: 'extra',
    reason: 'Every event frame of a connection has a number; there it is left out where an event is not for all.',
    guarantee: 'G6',
  },
  {
    file: 'chat-tool-events',
    where: 'A run run-tool-1 tool result › payload.data.result.*',
    reason: '`session_status` says how a session of this gateway is.',
    guarantee: 'section 5 of the wire',
  },
  {
    file: 'chat-tool-events',
    where: 'A run run-tool-1 tool * › payload.data.toolCallId',
    reason: 'A model names its calls.',
    guarantee: 'section 5 of the wire',
  },
  {
    file: 'chat-tool-events',
    where: 'A chat.history 4 › payload.messages.*',
    reason: 'The same in the transcript; what a tool says there is what the model heard.',
    guarantee: 'section 5 of the wire',
  },
  {
    file: ['chat-tool-events', 'chat-tool-events-off'],
    where: '* hole in the numbers of *',
    reason: 'As there: who hears nothing of tools sees where they are in the numbers of the run.',
    guarantee: 'section 5 of the wire',
  },

  {
    file: 'v4/connect-missing-token',
    where: 'A connect 1 › error.details.recommendedNextStep',
    kind: 'extra',
    reason: 'Who sends nothing is told what to send.',
    guarantee: 'section 11 of the wire',
  },

  // Requests that do not fit.
  {
    file: 'chat-send-invalid',
    where: 'A chat.send 7 › error.message',
    here: 'attachment image: invalid base64 content',
    reason: 'The name of an exception is not for clients.',
    guarantee: 'T28',
  },
  {
    file: 'agent-run',
    where: 'A agent 8 › error.message',
    here: 'invalid agent params: unknown agent id "nope" (known: main)',
    reason: 'The known agents are named.',
    guarantee: 'section 7 of the wire, Here',
  },
  {
    file: 'agent-run',
    where: 'A agent 9 › error.message',
    here: 'invalid agent params: give sessionKey, sessionId or agentId to choose a session',
    reason: 'Any channel is accepted, since real clients always name one; the session is what is missing.',
    guarantee: 'section 10 of the wire',
  },
  {
    file: 'agent-run',
    where: 'A agent 11 *',
    reason: 'What cannot be run is refused at once, and does not use up its key.',
    guarantee: 'G4',
  },
  {
    file: 'agent-run',
    where: '* › payload.result.meta.systemPromptReport',
    kind: 'missing',
    reason: 'What the system prompt is made of is not for clients.',
    guarantee: 'T28',
  },
  {
    file: 'errors',
    where: 'A answer invalid #3 › error.message',
    here: 'invalid request frame: not JSON',
    reason: 'Every frame is answered or closes the connection: also one that is not JSON.',
    guarantee: 'T12',
  },
  {
    file: 'errors',
    where: 'A answer invalid #4',
    kind: 'extra',
    reason: 'With an answer to the one that is not JSON there are four.',
    guarantee: 'T12',
  },
  {
    file: 'errors',
    where: 'A answers and events',
    reason: 'The answer to the one that is not JSON stands among the others.',
    guarantee: 'T12',
  },
  {
    file: 'v4/errors',
    where: 'A chat.send 3 › error.*',
    reason: 'What is missing is named.',
    guarantee: 'section 1 of the wire',
  },

  // sessions.*
  {
    file: 'sessions',
    where: 'A sessions.list 5 › payload.sessions.agent:main:work.derivedTitle',
    here: 'hello work [[chunks=2]]',
    reason: 'The title is what was said, without the envelope that the model sees.',
    guarantee: 'section 5 of the wire',
  },
  {
    file: 'sessions',
    where: 'A sessions.preview 7 › *.text',
    kind: 'changed',
    reason: 'A preview shows what was said, without the envelope that the model sees.',
    guarantee: 'section 5 of the wire',
  },
  {
    file: 'sessions',
    where: 'A sessions.list 6 *',
    reason: 'Reading methods ignore unknown params.',
    guarantee: 'Settled: T12',
  },
  {
    file: 'sessions',
    where: 'A sessions.* › payload.entry.*',
    kind: 'missing',
    reason: 'An entry has what is known of the session; files, reports and channels belong to the reference.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'sessions',
    where: 'A sessions.patch * › payload.entry.reasoningLevel',
    kind: 'extra',
    here: 'off',
    reason: 'A level that was set to `off` is shown as set.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: ['sessions', 'chat-tool-events'],
    where: 'A sessions.* › payload.entry.*',
    kind: 'extra',
    reason: 'An entry has the same members in every answer, also before the first turn.',
    guarantee: 'section 8 of the wire',
  },

  {
    file: 'sessions',
    where: 'A sessions.compact 17 › payload.compacted',
    here: false,
    reason: 'Two entries are two of what is counted; a transcript is no file, which has lines of its own besides.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'sessions',
    where: 'A sessions.compact 17 › payload.archived',
    kind: 'missing',
    reason: 'So there is nothing to set aside.',
    guarantee: 'section 8 of the wire',
  },

  // What is not served, and what is.
  {
    file: 'catalog',
    where: 'A agents.list 2 › payload.agents.name',
    kind: 'extra',
    reason: 'Every agent has a name, also where none is configured.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'catalog',
    where: 'A models.list 3 › payload.models.*',
    kind: 'changed',
    reason: 'The models are those that are configured, and the echo; no catalogue comes with it.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'catalog',
    where: 'A agents.files.list 6 › payload.files.length',
    here: 9,
    reason: 'One more file makes the prompt here: CLAUDE.md.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'catalog',
    where: 'A tts.* › payload.*',
    kind: 'changed',
    reason: 'No speech is made here.',
    guarantee: 'T18',
  },
  {
    file: 'catalog',
    where: 'A heartbeat',
    kind: 'extra',
    sometimes: true,
    reason:
      'Who wakes an agent that has no heartbeats is told that nobody was asked; whether before the end is chance.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'health-status',
    where: 'A status 5 › payload.sessions.paths.length',
    here: 1,
    reason: 'The sessions of all agents are in one store.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'skills-status',
    where: 'A skills.status 2 › payload.*',
    kind: 'changed',
    reason: 'There are no skills here.',
    guarantee: 'T18',
  },

  // Nodes.
  {
    file: 'node*',
    where: 'B connect 1 › payload.features.*',
    reason: 'A node is told what a node may call and may hear; what the gateway has beyond the reference is among it.',
    guarantee: 'T25',
  },
  {
    file: 'node*',
    where: 'B connect 1 › payload.snapshot.*',
    kind: 'missing',
    reason: 'Who may not ask for the health and the paths of the machine is not told them at the door either.',
    guarantee: 'T28',
  },
  {
    file: 'node*',
    where: 'B connect 1 › payload.snapshot.presence.length',
    here: 0,
    reason: 'Nor who else is there.',
    guarantee: 'T25, T28',
  },
  {
    file: 'node*',
    where: 'B connect 1 › payload.canvasHostUrl',
    kind: 'missing',
    reason: 'There is no canvas host here.',
    guarantee: 'T18',
  },
  {
    file: 'node*',
    where: 'B voicewake.changed › seq',
    kind: 'extra',
    reason: 'Every event of a connection is counted, also one that is for it alone: a hole means a loss.',
    guarantee: 'G6',
  },
  {
    file: 'node*',
    where: 'B node.invoke.request* › seq',
    kind: 'extra',
    reason: 'Every event of a connection is counted, also one that is for it alone: a hole means a loss.',
    guarantee: 'G6',
  },
  {
    file: 'node-invoke-timeout',
    where: 'B node.invoke.cancel',
    kind: 'extra',
    reason: 'A node that took too long is told that nobody waits any more.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'node-invoke-timeout',
    where: 'A node.invoke 2 › error.details.code',
    kind: 'extra',
    here: 'NODE_TIMED_OUT',
    reason: 'The precise name of a failure is in details.code.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'node-invoke-timeout',
    where: 'A node.invoke 3 › error.message',
    here: 'node disconnected (canvas.navigate)',
    reason: 'The same sentence, without the class of an exception before it.',
    guarantee: 'T28',
  },
  {
    file: 'nodes',
    where: 'A node.* › payload.*commands.length',
    here: 4,
    reason: 'A node has the commands that it declared: there is no list of what each platform may.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'nodes',
    where: 'A node.invoke 7*',
    reason: 'The node declared the command and is asked; there is no list of what each platform may.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'nodes',
    where: 'A answers and events',
    reason: 'Its answer comes when the node has given one, or has gone.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'nodes',
    where: 'B node.invoke.request #2',
    kind: 'extra',
    reason: 'It hears that it is asked.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'nodes',
    where: 'A node.rename 10 › *',
    reason: 'A node that is paired as a device can be renamed, too.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'nodes',
    where: 'A node.list 11 › payload.nodes.0.displayName',
    here: 'Renamed',
    reason: 'It was renamed.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'nodes',
    where: 'B run node-chat-1 * #2',
    kind: 'missing',
    reason: 'A node hears the sessions it took, and each event once.',
    guarantee: 'Settled: G17',
  },
  {
    file: 'nodes',
    where: 'B skills.bins 4 › payload.bins.length',
    here: 0,
    reason: 'There are no skills here.',
    guarantee: 'T18',
  },

  // config.*
  ...['parsed', 'config'].map(
    (member): Deviation => ({
      file: 'config',
      where: `A config.get 2 › payload.${member}.models.providers.fake.models.0.maxTokens`,
      here: 8_192,
      reason: 'How many tokens a model may write is no secret.',
      guarantee: 'G16',
    }),
  ),
  {
    file: 'config',
    where: 'A config.get 2 › payload.*.commands*',
    kind: 'extra',
    reason: 'Clients may write the file only where it says `commands.config: true`.',
    guarantee: 'Z2',
  },
  {
    file: 'config',
    where: 'A config.get 2 › payload.config.*',
    kind: 'missing',
    reason: 'What is shown is what the file says, so that what is saved again adds nothing to it.',
    guarantee: 'G16',
  },
  {
    file: 'config',
    where: 'A config.get 2 › payload.warnings.length',
    here: 1,
    reason: 'What of the file has no effect here is named.',
    guarantee: 'Z3',
  },
  {
    file: 'config',
    where: 'A config.patch 5 › *',
    reason: 'A key that nobody knows is a warning, and no reason not to start, nor to refuse a change.',
    guarantee: 'Z3',
  },
  {
    file: 'config-schema',
    where: 'A config.schema 2 › payload.schema.*',
    reason:
      'The keys are those that have an effect here, each with a sentence; of the others only the section is named.',
    guarantee: 'Z3',
  },
  {
    file: 'config-schema',
    where: 'A config.schema 2 › payload.uiHints.*',
    reason: 'What a form says of a key is in the schema; what is a secret is said besides.',
    guarantee: 'Z3',
  },

  // Devices and approvals.
  ...['C connect 1 › *', 'C close'].map(
    (where): Deviation => ({
      file: 'devices',
      where,
      reason:
        'From afar, without Origin, a right shared token is admitted on its own grant; the device waits to be paired.',
      guarantee: 'Decided: off loopback',
    }),
  ),
  {
    file: 'connect-remote-host-header',
    where: 'B device.pair.resolved',
    kind: 'extra',
    reason: 'It was admitted with operator.pairing, and hears what becomes of pairings.',
    guarantee: 'Decided: off loopback',
  },
  {
    file: 'devices',
    where: 'C device.pair.resolved',
    kind: 'extra',
    reason: 'It was admitted with operator.pairing, and hears what becomes of pairings.',
    guarantee: 'Decided: off loopback',
  },
  {
    file: 'exec-approvals',
    where: '* exec.approval.requested* › payload.requestedBy',
    kind: 'extra',
    reason: 'Who asks is said to those who decide.',
    guarantee: 'T21',
  },
  {
    file: ['exec-approvals', 'scopes'],
    where: '* exec.approvals.get * › payload.exists',
    here: false,
    reason: 'What was never set is not said to be there.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: ['exec-approvals', 'scopes'],
    where: '* exec.approvals.get * › payload.file.socket',
    kind: 'missing',
    reason: 'There is no companion that listens on a socket.',
    guarantee: 'section 8 of the wire',
  },

  // Scopes.
  {
    file: 'scopes',
    where: '* run scope-* chat aborted',
    kind: 'missing',
    reason: 'A command is answered at once: there is nothing left to stop, and it ends once.',
    guarantee: 'G3',
  },
  {
    file: 'scopes',
    where: '* chat.abort 5 › payload.*',
    reason: 'Nothing was left to stop.',
    guarantee: 'G3',
  },
  {
    file: 'scopes',
    where: 'B run scope-2 chat final',
    kind: 'extra',
    reason: 'The answer to the command.',
    guarantee: 'G3',
  },
  {
    file: 'scopes',
    where: 'E run scope-5*',
    reason: 'The same; `/status` describes this gateway.',
    guarantee: 'section 5 of the wire',
  },
  {
    file: 'scopes',
    where: 'E sessions.patch 7 › payload.entry.*',
    kind: 'extra',
    reason: 'An entry has the same members in every answer, also before the first turn.',
    guarantee: 'section 8 of the wire',
  },

  // How the gateway is.
  {
    file: 'health-status',
    where: 'A status 5 › payload.queuedSystemEvents.length',
    here: 0,
    reason: 'What another recording left there is not there.',
    guarantee: 'section 8 of the wire',
  },
  {
    file: 'health-status',
    where: 'A status 5 › payload.sessions.paths.length',
    here: 1,
    reason: 'One database has the sessions of all agents.',
    guarantee: 'G19',
  },

  // A process that ends, and clients that leave.
  {
    file: 'life-client-disconnects',
    where: 'A run dc-1 chat delta',
    kind: 'extra',
    sometimes: true,
    reason: 'It comes with the first piece; whether before the line was cut is a matter of time.',
    guarantee: 'section 5 of the wire',
  },
  {
    file: 'life-kill-9',
    where: 'B chat.history * › payload.messages.length',
    here: 4,
    reason: 'What was streamed before the end is kept; no message is there twice.',
    guarantee: 'G3, G8',
  },
  {
    file: 'life-kill-9',
    where: 'B chat.history 5 › payload.messages.3.*',
    reason: 'Behind the message stands what was streamed, with the reason why there is no more.',
    guarantee: 'G8',
  },
  {
    file: 'life-kill-9',
    where: 'B chat.send 3 *',
    reason: 'The key of another message is refused: IDEMPOTENCY_KEY_REUSED.',
    guarantee: 'G4',
  },
  {
    file: 'life-kill-9',
    where: 'B run k9-*',
    kind: 'missing',
    reason: 'A key lives on disk: what it started is not started again.',
    guarantee: 'G3',
  },
  {
    file: 'life-kill-9',
    where: 'B chat.send 4 › payload.status',
    here: 'ok',
    reason: 'What had ended before the end of the process is answered from the record.',
    guarantee: 'G3',
  },
  {
    file: 'life-shutdown',
    where: 'B chat.history 2 › payload.messages.length',
    here: 2,
    reason: 'A message that was acknowledged is kept, and the text that had come.',
    guarantee: 'G2, G11',
  },

  // Over HTTP.
  ...['x-content-type-options', 'x-frame-options', 'content-security-policy'].map(
    (header): Deviation => ({
      file: 'http',
      where: `* › headers.${header}`,
      kind: 'extra',
      reason: 'Every answer has it.',
      guarantee: 'T33',
    }),
  ),
  ...['referrer-policy', 'cross-origin-opener-policy'].map(
    (header): Deviation => ({
      file: 'http',
      where: `* › headers.${header}`,
      kind: 'extra',
      reason: 'No other page learns of this one, or holds on to it.',
      guarantee: 'T33',
    }),
  ),
  {
    file: 'http',
    where: '* › headers.content-security-policy',
    kind: 'changed',
    reason: 'The page may load nothing, run nothing and send nothing; nothing else may be a page.',
    guarantee: 'T33',
  },
  {
    file: 'http',
    where: '* › headers.cache-control',
    reason: 'What is told of the gateway is told for this moment: no cache keeps it.',
    guarantee: 'T28',
  },
  ...['content-type', 'body*'].map(
    (part): Deviation => ({
      file: 'http',
      where: `default GET /health* › ${part.startsWith('body') ? part : `headers.${part}`}`,
      reason: 'How the gateway is.',
      guarantee: 'Z10',
    }),
  ),
  ...[
    'GET /chat?session=main',
    'GET /favicon.svg',
    'GET /assets/nope.js',
    'GET /ui/x',
    'GET /avatar/main*',
    'GET /__openclaw/control-ui-config.json',
  ].map(
    (request): Deviation => ({
      file: 'http',
      where: `default ${request} › *`,
      reason: 'What is not there is 404 in JSON, never the page.',
      guarantee: 'Z10, T27',
    }),
  ),
  {
    file: 'http',
    where: 'default GET /__openclaw__/* › *',
    reason: 'There is no canvas.',
    guarantee: 'section 9 of the wire',
  },
  ...['status', 'headers.content-type', 'body'].map(
    (part): Deviation => ({
      file: 'http',
      where: `default * /v1/* › ${part}`,
      reason: 'What is not switched on is not there: 404 in JSON, for every method.',
      guarantee: 'T35',
    }),
  ),
  ...['default GET /tools/invoke', 'all GET /v1/chat/completions'].flatMap((request) =>
    ['headers.content-type', 'body'].map(
      (part): Deviation => ({
        file: 'http',
        where: `${request} › ${part}`,
        kind: 'changed',
        reason: 'A method that is not for a route is refused in JSON, in the shape of all refusals of the route.',
        guarantee: 'T35',
      }),
    ),
  ),
  {
    file: 'http',
    where: '* › headers.www-authenticate',
    kind: 'extra',
    here: 'Bearer',
    reason: 'Whoever is not let in is told by what: a 401 has to name a scheme.',
    guarantee: 'T35',
  },
  {
    file: 'http',
    where: '* › body.error.code',
    kind: 'extra',
    reason: 'A refusal says its precise name.',
    guarantee: 'section 1 of the guarantees',
  },
  {
    file: 'http',
    where: 'all POST /v1/* › body.error.param',
    kind: 'extra',
    reason: 'A refusal names the parameter, as those of OpenAI do, and null where it is about none.',
    guarantee: 'section 9 of the wire',
  },
  {
    file: 'http',
    where: 'default POST /tools/invoke* › body.ok',
    kind: 'extra',
    here: false,
    reason: 'Every refusal says that nothing was done; there, only some did.',
    guarantee: 'section 9 of the wire',
  },
  {
    file: 'http',
    where: 'default POST /tools/invoke #2 › body.result.content.0.text',
    kind: 'changed',
    reason: 'Tools of this gateway answer in JSON, which models and programs read alike, and not in a card for people.',
    guarantee: 'section 9 of the wire',
  },
  {
    file: 'http',
    where: 'default POST /tools/invoke #2 › body.result.details.*',
    reason: 'The details are that JSON: a session has members of its own here, and its model is not set by this tool.',
    guarantee: 'section 9 of the wire',
  },
  {
    file: 'http',
    where: 'all POST /v1/* › headers.x-accel-buffering',
    kind: 'extra',
    here: 'no',
    reason: 'A proxy that gathers what it passes on would keep the pieces back until the end.',
    guarantee: 'section 9 of the wire',
  },
  ...['content', 'delta'].map(
    (member): Deviation => ({
      file: 'http',
      where: `all POST /v1/* › *.${member}`,
      kind: 'untrimmed',
      reason: "The text is the model's to the last blank: streamed, whole and kept are byte-equal.",
      guarantee: 'G5',
    }),
  ),
  ...['message.refusal', 'logprobs', 'finish_reason'].map(
    (member): Deviation => ({
      file: 'http',
      where: `all POST /v1/chat/completions* › *choices.0.${member}`,
      kind: 'extra',
      here: null,
      reason: "OpenAI's own completions have it, and its libraries declare it.",
      guarantee: 'section 9 of the wire',
    }),
  ),
  {
    file: 'http',
    where: 'all POST /v1/chat/completions #3 › told.length',
    here: 4,
    reason: 'The chunk before [DONE] says why the answer ended: without it libraries take an answer for cut.',
    guarantee: 'section 9 of the wire',
  },
  {
    file: 'http',
    where: 'all POST /v1/chat/completions #3 › told.2.data',
    reason: 'The chunk before [DONE] says why the answer ended: without it libraries take an answer for cut.',
    guarantee: 'section 9 of the wire',
  },
  ...[
    ...['usage.*_details', 'sequence_number', 'logprobs', 'annotations', 'error', 'incomplete_details', 'instructions'],
    ...['previous_response_id', 'temperature', 'top_p', 'metadata', 'parallel_tool_calls', 'tool_choice', 'tools'],
  ].map(
    (member): Deviation => ({
      file: 'http',
      where: `all POST /v1/* › *.${member}`,
      kind: 'extra',
      reason: "OpenAI's own answers have it, and its libraries declare it.",
      guarantee: 'section 9 of the wire',
    }),
  ),
  {
    file: 'http',
    where: 'all POST /v1/responses #2 › told.2.data.item.content.length',
    here: 0,
    reason: 'A part is told by response.content_part.added, and does not stand in its message before that.',
    guarantee: 'section 9 of the wire',
  },
  {
    file: 'http',
    where: '* POST /hooks/* › *',
    reason: 'There are no hooks, whatever the configuration says of them.',
    guarantee: 'T35',
  },
  {
    file: 'http',
    where: 'default OPTIONS / › *',
    reason: 'A page of another origin is refused before anything else is looked at.',
    guarantee: 'T1',
  },

  // Protocol 4: what a run says besides.
  ...[
    'run_status *',
    'chat status *',
    'lifecycle model*',
    'lifecycle finishing',
    'lifecycle fallback_step',
    'usage*',
  ].map(
    (step): Deviation => ({
      file: 'v4/chat-*',
      where: `A run * ${step}`,
      kind: 'missing',
      reason: 'Progress that clients do without.',
      guarantee: 'section 11 of the wire',
    }),
  ),
  {
    file: 'v4/chat-*',
    where: 'A run * › payload.errorDetail.*',
    reason: 'What the provider answered is told as its HTTP status, not as a guess at the kind of failure.',
    guarantee: 'section 11 of the wire',
  },
  ...['isHeartbeat', 'sessionId', 'data.*'].map(
    (member): Deviation => ({
      file: 'v4/chat-*',
      where: `A run * › payload.${member}`,
      kind: 'missing',
      reason: 'Optional members of the events of protocol 4.',
      guarantee: 'section 11 of the wire',
    }),
  ),
  {
    file: ['v4/chat-send', 'v4/chat-send-bare-key'],
    where: 'A chat.history 3 › payload.*',
    kind: 'missing',
    reason: 'Optional members of the history of protocol 4.',
    guarantee: 'section 11 of the wire',
  },
  {
    file: ['v4/chat-send', 'v4/chat-send-bare-key'],
    where: 'A chat.history 3 › payload.messages.0.content',
    kind: 'changed',
    reason: 'The content of a message is a list of parts in both protocols.',
    guarantee: 'section 11 of the wire',
  },
  {
    file: 'v4/chat-abort',
    where: 'A run v4b-6 lifecycle error',
    kind: 'missing',
    reason: 'A run that was stopped ends once, with `end`.',
    guarantee: 'section 5 of the wire, Here',
  },
  {
    file: 'v4/chat-abort',
    where: 'A run v4b-6',
    kind: 'order',
    reason: 'Lifecycle, then chat.',
    guarantee: 'section 5 of the wire, Here',
  },
  {
    file: 'v4/chat-abort',
    where: 'A run v4b-6 chat aborted › payload.message.content.0.text',
    kind: 'changed',
    sometimes: true,
    reason: 'How far the text had come is a matter of time.',
    guarantee: 'section 5 of the wire, Here',
  },
  {
    file: 'v4/chat-error',
    where: 'A run v4b-5 chat error #2',
    kind: 'missing',
    reason: 'A failure is said once.',
    guarantee: 'section 5 of the wire, Here',
  },
  {
    file: 'v4/chat-error',
    where: 'A run v4b-5 * › payload.*',
    kind: 'changed',
    here: 'fake failure 400',
    reason: 'A failure is said in the words of the model.',
    guarantee: '0.7 of the wire',
  },
]

function optionalInHello(member: string): Deviation {
  return {
    file: 'v4/connect-*',
    where: `A connect 1 › payload.${member}`,
    kind: 'missing',
    reason: 'Optional in protocol 4, and without meaning here.',
    guarantee: 'section 11 of the wire',
  }
}

/** Whether a part of a recording is known not to come here, so that waiting for it would be in vain. */
export const isMissing = (file: string, where: string): boolean =>
  DEVIATIONS.some(
    (row) =>
      !('here' in row) && [undefined, 'missing'].includes(row.kind) && explains(row, file, { where, kind: 'missing' }),
  )

/** A text in which `*` stands for anything. */
export const pattern = (text: string): RegExp =>
  new RegExp(`^${text.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*')}$`, 's')

/** Whether a row is about a difference. */
export function explains(
  row: Pick<Deviation, 'file' | 'where' | 'kind' | 'here'>,
  file: string,
  { where, kind, here }: Difference,
): boolean {
  return (
    [row.file].flat().some((name) => pattern(name).test(file)) &&
    pattern(row.where).test(where) &&
    (row.kind === undefined || row.kind === kind) &&
    (!('here' in row) || JSON.stringify(row.here) === JSON.stringify(here))
  )
}
