/**
 * What the gateway remembers, and what a crash may leave behind.
 *
 * Every method that writes resolves only after its effect is durable; calls are applied in the order they were made, so a
 * read sees every write made before it. Each write is atomic: a crash leaves all of it or nothing. Times are wall-clock
 * milliseconds and ids are given by the caller: a store has no clock and makes no ids. Rejections are {@link StoreError}.
 */

import type { CronEntry, CronJob } from '../contract/cron.ts'

/** A JSON value as it is stored. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json }

/** Where a run is: `admitted` (kept, not started), `started` (the model may have been called), or ended. */
export type RunState = 'admitted' | 'started' | EndState
export type EndState = 'completed' | 'failed' | 'aborted' | 'timedOut' | 'interrupted'

/** A picture that came with a turn, kept once under its SHA-256 (lower-case hex). */
export interface Attachment {
  sha256: string
  mimeType: string
  fileName?: string
}

/** What led to a turn: requests of agents to agents, from the one that an outsider made on. */
export interface Chain {
  /** The id of the run that the outsider's request is. */
  id: string
  /** How many messages follow from one another up to here; 0 = the request itself, and turns that bring answers back to it. */
  hop: number
  /** Ids of the agents on the way: the one first asked is first, the one whose turn it is is last. `hop + 1` of them. */
  path: string[]
}

/** What makes a turn a message from one agent to another. Its id is the id of the run it becomes. */
export interface Sent {
  /** The run that sent it. */
  from: { agentId: string; sessionKey: string; runId: string }
  /** Whether the sender is to hear the answer, which is then told exactly once. */
  reply: 'once' | 'none'
  /** Wall-clock ms; a message that has not been started by then is not started any more. */
  expiresAt?: number
}

/** Something that was said before a turn, and not here. */
export interface Earlier {
  role: 'user' | 'assistant'
  text: string
}

/** What was used of one model. */
export interface Spent {
  provider: string
  model: string
  input: number
  output: number
  cacheRead: number
  cacheWrite: number
  totalTokens: number
  /** In the currency of the configured prices. */
  cost: { input: number; output: number; cacheRead: number; cacheWrite: number; total: number }
}

/** What was used of one model for one session in one day. */
export interface UsageDay extends Spent {
  /** `YYYY-MM-DD`, of the UTC day that the runs ended in. */
  day: string
  sessionKey: string
  agentId: string
  /** How many runs used it. */
  runs: number
}

/** A turn as a client asked for it. */
export interface NewTurn {
  /** The id wanted for the run; in a record, the one it got. */
  runId: string
  /** The id to use when another run of the last 24 h already has `runId`. */
  spareRunId: string
  /** Who asks: the verified device id, else the id of the token's record. */
  principal: string
  method: string
  /** Canonical: `agent:<id>:<rest>`. */
  sessionKey: string
  agentId: string
  /** The id of the transcript to begin when the session is new. */
  sessionId: string
  /** The client's idempotency key. */
  key: string
  /** SHA-256 over the canonical parameters. */
  fingerprint: string
  /** The user's words; empty, without attachments, for a command: then nothing of the user's enters the transcript. */
  message: string
  attachments: (Attachment & { bytes: Uint8Array })[]
  /** Whatever else must survive a restart with the turn (deadline, thinking level, …). */
  meta: { [name: string]: Json }
  acceptedAt: number
  /** Absent: an outsider's request, the first of a chain that has its run's id. */
  chain?: Chain
  sent?: Sent
  /** The id of the message whose answer this turn brings to its sender. */
  answers?: string
  /** What is put in the transcript before the user's entry, if that is the first there. It is kept nowhere else from then on. */
  earlier?: Earlier[]
  /** Nobody asked: its words come into the transcript with its answer, and with an ending that is `unsaid` not at all. */
  quiet?: true
}

/** Something that a session is to hear of with its next turn. */
export interface SystemEvent {
  id: string
  sessionKey: string
  agentId: string
  text: string
  at: number
  /** It is not to wait for a turn that comes by itself. */
  isUrgent?: true
}

/** That a job's time came. Its id and `dueAt` (wall-clock ms) are what tells it from every other. */
export interface Firing extends Omit<CronEntry, 'ts' | 'action' | 'runAtMs'> {
  dueAt: number
  startedAt: number
  /** Absent while it is under way. */
  endedAt?: number
  /** The job as it was then, for as long as it is under way. */
  job?: CronJob
}

/** What is kept of a job in one write. */
export interface JobStep {
  job: CronJob
  firing?: Firing
  event?: SystemEvent
}

/** A run as it is kept. */
export interface RunRecord extends Omit<NewTurn, 'spareRunId' | 'attachments'> {
  attachments: Attachment[]
  state: RunState
  startedAt?: number
  /** Which attempt was started last, from 2 on; absent until there is a second one. */
  attempt?: number
  endedAt?: number
  /** What had been streamed at the last {@link Store.progress}; empty once the run has ended. */
  text: string
  /** Why an ended run ended: `stop`, `length`, `rpc`, `timeout`, … */
  stopReason?: string
  /** The words for the user, when `state` is `failed` or `interrupted`. */
  error?: string
  /** The run that answered this turn with its own. */
  absorbedBy?: string
  /**
   * The sender of this message has heard the answer, or is going to: it is kept with a turn of its own, or with the run that
   * took it in.
   */
  heard?: true
  /** Ids of the system events that the message of a quiet run tells of; they are heard when it has completed. */
  takes?: string[]
  /** What its models used, once it has ended. */
  spent?: Spent[]
  /** What the method answers to a repeat of the key, where that is more than the state. */
  result?: Json
}

/** The answer to {@link Store.accept}. */
export type Acceptance =
  | { kind: 'accepted'; runId: string; sessionId: string; settings: SessionRecord['settings'] }
  /** The same key with the same body: nothing was written. */
  | { kind: 'known'; run: RunRecord }
  /** The same key with another body: nothing was written. */
  | { kind: 'reused'; runId: string }
  /** The session's setting `sendPolicy` is `deny`: no turn was written. An answer that was to be brought counts as heard. */
  | { kind: 'denied' }
  /** The answer that the turn brings has been heard already, nobody knows the message, or its session is gone: no turn was written. */
  | { kind: 'heard' }

/** How a run ended. */
export interface Ending {
  state: EndState
  endedAt: number
  stopReason?: string
  error?: string
  absorbedBy?: string
  /**
   * The words of a turn that was never started, or that is quiet, stay out of the transcript: the next one does not tell the model of
   * them. Of a quiet turn nobody is told then, and its end counts as announced.
   */
  unsaid?: true
  /** Entries for the transcript that come before `message`: what the assistant said on the way, the calls it made, their results. */
  before?: TranscriptMessage[]
  /** The assistant's last entry for the transcript; absent when there is nothing to keep. */
  message?: TranscriptMessage
  result?: Json
  /** What all the run's answers came to. */
  usage?: { input: number; output: number; totalTokens: number }
  /** What the last answer and what it was asked with came to. */
  contextTokens?: number
  /** The usage by model, with what it cost; added to the day's. */
  spent?: Spent[]
  /**
   * Messages whose answers the run took in; those that are unknown, or heard already, are passed over. With `interrupted` none
   * becomes heard: the run has lost what it took in, and the answers are to be told again.
   */
  heard?: string[]
  /** `provider` and `model` that answered, kept with the session. */
  modelProvider?: string
  model?: string
}

/** One entry of a transcript, in the shape `chat.history` answers. */
export interface TranscriptMessage {
  role: 'user' | 'assistant' | 'toolResult'
  content: ({ type: 'text'; text: string } | { type: string; [name: string]: Json })[]
  timestamp: number
  stopReason?: string
  [name: string]: Json | undefined
}

/** A session as it is kept. `settings` holds what `sessions.patch` sets (label, thinkingLevel, …). */
export interface SessionRecord {
  key: string
  agentId: string
  sessionId: string
  /** The principal that made it, as far as that is known. */
  madeBy?: string
  createdAt: number
  updatedAt: number
  settings: { [name: string]: Json }
  /** Whether a turn has started in this transcript. */
  systemSent: boolean
  abortedLastRun: boolean
  inputTokens: number
  outputTokens: number
  totalTokens: number
  /** What the last answer and what it was asked with came to; absent before the first. */
  contextTokens?: number
  modelProvider?: string
  model?: string
  /** Entries in the present transcript. */
  messageCount: number
  /** How the first words of the user and the newest entry of the present transcript begin, up to 240 characters of each. */
  opening?: string
  latest?: string
}

/** A session that is to be there, and what it begins with if it is new. */
export interface WantedSession {
  key: string
  agentId: string
  sessionId: string
  /** Who makes it, and has it counted. */
  principal?: string
}

export interface Compaction {
  kept: number
  /** None: the past transcript was not made. */
  moved: number
}

export interface History {
  /** Absent for a session that does not exist. */
  sessionId?: string
  /** Oldest first; the newest that fit. */
  messages: TranscriptMessage[]
}

/** Events that follow each other in a stream: `to - from + 1` of them, as JSON text the store does not read. */
export interface EventChunk {
  from: number
  to: number
  events: string
}

/** What a session's stream gains in one write. */
export interface NewEvents extends EventChunk {
  sessionKey: string
  epoch: string
  at: number
  /** The runs whose last event is among these. */
  announced: string[]
}

/** The answer to {@link Store.events}: everything asked for, or why not. */
export type Replay =
  /** The first chunk may begin at or before the offset asked for. */
  | { kind: 'events'; chunks: EventChunk[] }
  /** The stream has another epoch now, or there is none. */
  | { kind: 'epochChanged' }
  /** Some of it is forgotten; from `oldest` on it is there. */
  | { kind: 'tooOld'; oldest: number }
  | { kind: 'tooLarge' }
  /** The stream has not come that far. */
  | { kind: 'ahead' }

export interface SessionFilter {
  agentId?: string
  /** Only sessions touched at or after this time. */
  updatedSince?: number
  /** Matches the key or the label, whatever the case. */
  search?: string
  /** At most this many, newest first; all when absent. */
  limit?: number
}

/** How much a store keeps; each 0 = no end of it. */
export interface Quotas {
  /** Sessions that one principal made. */
  sessions: number
  /** Keys that are remembered for one principal. */
  keys: number
  /** The same for some principals, in place of `keys`. */
  keysOf?: { [principal: string]: number }
}

/** Why a store that is well keeps no more: a call that would make one more session, or remember one more key, is refused. */
export type QuotaName = 'SESSION_QUOTA' | 'DEDUPE_QUOTA'

export interface Store {
  /** What it is and where, for `status` and `doctor`. */
  readonly kind: string

  /**
   * Keeps a turn, its key, its pictures and (if new) its session. One admission per (principal, method, sessionKey, key):
   * of two calls with the same four, whatever the order or the restart between them, exactly one is `accepted`. What is known or
   * reused is answered as such also where a quota is reached. A turn that brings an answer makes it heard.
   */
  accept(turn: NewTurn): Promise<Acceptance>
  /**
   * Marks a run as started and puts its user message in the transcript, behind the system events that its session was yet to
   * hear of. The message of a quiet run gains them instead, and they wait on until it has completed. The first attempt only from `admitted`; a later one only from `started` by the
   * attempt before it, whose text is forgotten; else `StoreError` CONFLICT.
   */
  start(runId: string, startedAt: number, attempt?: number): Promise<void>
  /** Keeps the text streamed so far of a started run; later calls replace earlier ones. Ignored once the run has ended. */
  progress(runId: string, text: string): Promise<void>
  /**
   * Ends a run: state, transcript entries, session totals, what was used, and what it has heard. The first ending stays: a
   * second call changes nothing and resolves to false. A run that never started gets its user message in the transcript first.
   */
  settle(runId: string, ending: Ending): Promise<boolean>
  run(runId: string): Promise<RunRecord | undefined>
  /** The runs of a chain that are still known: the request at its beginning, then the others in the order they were accepted. */
  chain(chainId: string): Promise<RunRecord[]>
  /** The newest messages that agents sent to an agent (by default to any), newest first. */
  mail(filter: { agentId?: string; limit: number }): Promise<RunRecord[]>
  /** Messages with `reply: 'once'` that have ended and whose answer nobody has heard, in the order they were accepted. */
  unheard(): Promise<RunRecord[]>
  /**
   * What was used from one day to another, both included, the oldest day first. It outlives its runs and its session;
   * {@link age} forgets days more than 400 before the newest.
   */
  usage(filter: { from?: string; to?: string; sessionKey?: string }): Promise<UsageDay[]>
  /** Runs without an ending, in the order they were accepted. */
  unsettled(): Promise<RunRecord[]>
  /**
   * Lets time go by, and forgets what was added at least `keepMs` ago: keys and ended runs (transcripts stay, and what
   * is {@link unheard}), and events; also the events with at least `eventsPerSession` after them. The store has no clock but
   * these calls, so that nobody who sets the clock of the machine makes anything older, or keeps it young; the time between two
   * processes counts for nothing.
   * @param elapsedMs since the last call, by a clock that is never set
   * @returns how many runs were forgotten, and how many chunks of events
   */
  age(
    elapsedMs: number,
    bounds: { keepMs: number; eventsPerSession: number },
  ): Promise<{ runs: number; chunks: number }>

  session(key: string): Promise<SessionRecord | undefined>
  /** The session whose present transcript has this id. */
  sessionOf(sessionId: string): Promise<SessionRecord | undefined>
  sessions(filter: SessionFilter): Promise<SessionRecord[]>
  /** How many sessions each agent has, and the `recent` of them that were touched last, the newest first. */
  overview(recent: number): Promise<{ agentId: string; count: number; recent: SessionRecord[] }[]>
  /** Sets members of `settings` (null clears one), making the session if it is new. */
  patchSession(session: WantedSession, settings: { [name: string]: Json }, at: number): Promise<SessionRecord>
  /** Begins a new transcript under `sessionId`, keeping the settings; makes the session if it is new. */
  resetSession(session: WantedSession, at: number): Promise<SessionRecord>
  /**
   * Moves all but the newest `keep` entries of the present transcript to a past one, which is the session's, too, as after a reset;
   * no result of a tool is parted from its call. Resolves to how many are left, and were moved; undefined: no session.
   */
  compactSession(key: string, archive: { sessionId: string; keep: number }): Promise<Compaction | undefined>
  /** Removes a session, its transcripts and its stream. Resolves to whether there was one. Ended runs keep answering their keys. */
  deleteSession(key: string): Promise<boolean>
  /** Adds an entry to a session's transcript; makes the session if it is new and `create` is given. Undefined: no session. */
  append(
    key: string,
    message: TranscriptMessage,
    create?: Omit<WantedSession, 'key'>,
  ): Promise<SessionRecord | undefined>
  /** The newest `limit` entries whose JSON fits in `maxBytes` together, oldest first. */
  history(key: string, bounds: { limit: number; maxBytes: number }): Promise<History>
  /**
   * Adds events to a session's stream, whose offsets run from 1 without a gap within an epoch, and notes that the ends of
   * `announced` are told. `from` is the next offset, or 1 with another epoch, which takes the place of the old one and its
   * events; else `StoreError` CONFLICT. An epoch is the caller's and never comes twice in the life of a session key.
   * Without such a session there is nothing to add to, and the call resolves. A reset leaves the stream as it is.
   */
  appendEvents(chunk: NewEvents): Promise<void>
  /** How far a session's stream has come; offset 0 before its first event. */
  stream(sessionKey: string): Promise<{ epoch: string; offset: number } | undefined>
  /** The streams of all sessions, in no order. */
  streams(): Promise<{ sessionKey: string; epoch: string; offset: number }[]>
  /** Every event after an offset of an epoch, in order; `tooLarge` when the chunks have more than `maxBytes` together. */
  events(sessionKey: string, epoch: string, after: number, maxBytes: number): Promise<Replay>
  /**
   * The sessions whose stream may lack what was sent or should have been: they have a run that has not ended, or one whose
   * end was never announced. Runs that an older gateway accepted count as announced once they have ended.
   */
  unfinishedStreams(): Promise<string[]>
  /**
   * Gives a session's stream a new epoch without events, and counts the ends of its runs as announced. CONFLICT when it
   * has that epoch already; nothing happens without such a session.
   */
  beginEpoch(sessionKey: string, epoch: string, at: number): Promise<void>
  /** The bytes of a kept picture. */
  attachment(sha256: string): Promise<Uint8Array | undefined>

  /** Keeps word for a session; of more than 20 the oldest are forgotten. */
  addSystemEvent(event: SystemEvent): Promise<void>
  /** What sessions are yet to hear of, or one of them is; the oldest first. */
  systemEvents(sessionKey?: string): Promise<SystemEvent[]>

  jobs(): Promise<CronJob[]>
  /**
   * Keeps a job, a firing of it, and word for a session: all or nothing. A firing is added once and ended once, and only of a job
   * that is there; a step that was taken already, or is of no job any more, resolves to false, and nothing was written. Of more
   * than 200 firings of one job the oldest that have ended are forgotten.
   */
  keepJob(step: JobStep): Promise<boolean>
  /** Removes a job and its firings. Resolves to whether there was one. */
  removeJob(jobId: string): Promise<boolean>
  /** The newest firings that have ended, of one job or of all, the one that was due last first. */
  firings(filter: { jobId?: string; limit: number }): Promise<Firing[]>
  /** Those that are under way. */
  openFirings(): Promise<Firing[]>

  /** Small records of other rooms (devices, tokens, …), by kind and id. */
  put(kind: string, id: string, value: Json): Promise<void>
  get(kind: string, id: string): Promise<Json | undefined>
  list(kind: string): Promise<{ id: string; value: Json }[]>
  remove(kind: string, id: string): Promise<boolean>

  /** Looks for damage; resolves to the problems found, in words. */
  verify(): Promise<string[]>
  /** Finishes what was asked, then closes. Later calls reject. */
  close(): Promise<void>
}

/** A store that could not do what it was asked. */
export class StoreError extends Error {
  override readonly name = 'StoreError'
  readonly code: 'FULL' | 'BROKEN' | 'CLOSED' | 'CONFLICT' | QuotaName

  /**
   * @param code `FULL` no space, may recover; `BROKEN` the disk or the file failed; `CLOSED`; `CONFLICT` the call does not fit
   * the record's state; else a quota that is reached.
   */
  constructor(code: StoreError['code'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
