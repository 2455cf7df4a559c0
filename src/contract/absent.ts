/**
 * What the reference gateway has and this one has not. Its clients ask for it all the same: what is only read is answered with the
 * truth, which is that there is none; what would have to be done is refused with what to do instead. None of it is listed.
 */
import { type TObject, Type } from 'typebox'
import { type MethodBlock, method, type Scope } from './block.ts'
import { Anything, IdempotencyKey, Milliseconds, NonEmpty, Open, Said, Short } from './shapes.ts'

/** Something that is only read, of which there is nothing. */
const none = <P extends TObject, R extends TObject | ReturnType<typeof Type.Array>>(
  summary: string,
  scope: Scope,
  params: P,
  result: R,
): MethodBlock<P, R> => method({ summary, scope, unknown: 'ignored', unlisted: true, params, result })

const Flag = Type.Optional(Type.Boolean())
const Account = Type.Optional(Short)
const Nothing = Type.Array(Open)

export const empty = {
  'channels.status': none(
    'The channels to messengers: there are none here.',
    'operator.read',
    Type.Object({ probe: Flag, timeoutMs: Type.Optional(Milliseconds) }),
    Type.Object({
      ts: Type.Number(),
      channelOrder: Type.Array(Type.String()),
      channelLabels: Open,
      channelDetailLabels: Open,
      channelSystemImages: Open,
      channelMeta: Nothing,
      channels: Open,
      channelAccounts: Open,
      channelDefaultAccountId: Open,
    }),
  ),
  'skills.status': none(
    'The skills of an agent: there are none here, what it is to know stands in the files of its workspace.',
    'operator.read',
    Type.Object({ agentId: Type.Optional(NonEmpty) }),
    Type.Object({ workspaceDir: Type.String(), managedSkillsDir: Type.String(), skills: Nothing }),
  ),
  'tts.status': none(
    'Whether answers are spoken: they are not, no speech is made here.',
    'operator.read',
    Type.Object({}),
    Type.Object({
      enabled: Type.Literal(false),
      auto: Type.String(),
      provider: Type.Null(),
      fallbackProvider: Type.Null(),
      fallbackProviders: Nothing,
      prefsPath: Type.String(),
      hasOpenAIKey: Type.Literal(false),
      hasElevenLabsKey: Type.Literal(false),
      edgeEnabled: Type.Literal(false),
    }),
  ),
  'tts.providers': none(
    'Who makes speech: nobody here.',
    'operator.read',
    Type.Object({}),
    Type.Object({ providers: Nothing, active: Type.Null() }),
  ),
  'tts.disable': none(
    'Have answers not spoken, which they are not.',
    'operator.write',
    Type.Object({}),
    Type.Object({ enabled: Type.Literal(false) }),
  ),
  'question.list': none(
    'The questions that agents wait for answers to (protocol 4): agents ask in what they say here.',
    'operator.read',
    Type.Object({}),
    Type.Object({ questions: Nothing }),
  ),
  'plugin.approval.list': none(
    'What plugins wait to be allowed (protocol 4): there are none here.',
    'operator.approvals',
    Type.Object({}),
    Nothing,
  ),
}

/** Something that is not done here. @param instead what to do in its place: the end of a sentence that began with the method's name */
function refused<P extends TObject>(scope: Scope, instead: string, params: P) {
  const summary = `Not served here: ${instead}.`
  return {
    ...method({ summary, scope, unknown: 'ignored', unlisted: true, params, result: Type.Never() }),
    instead,
  }
}

const NO_SPEECH = 'no speech is made here; a client that is to speak has a voice of its own'
const NO_CHANNELS = 'there are no channels here; programs reach agents by chat.send, agent and HTTP'
const NO_SKILLS = 'there are no skills here; write what an agent is to know to its workspace, with agents.files.set'
const NO_WIZARD =
  'there is no wizard here; edit the configuration, or use config.patch, and check it with `kurultai doctor`'

export const absent = {
  'channels.logout': refused('operator.admin', NO_CHANNELS, Type.Object({ channel: NonEmpty, accountId: Account })),
  'channels.start': refused('operator.admin', NO_CHANNELS, Type.Object({ channel: NonEmpty, accountId: Account })),
  'channels.stop': refused('operator.admin', NO_CHANNELS, Type.Object({ channel: NonEmpty, accountId: Account })),
  send: refused(
    'operator.write',
    NO_CHANNELS,
    Type.Object({
      to: NonEmpty,
      message: Said,
      mediaUrl: Type.Optional(Type.String()),
      mediaUrls: Type.Optional(Type.Array(Type.String())),
      gifPlayback: Flag,
      channel: Account,
      accountId: Account,
      sessionKey: Account,
      idempotencyKey: IdempotencyKey,
    }),
  ),
  poll: refused(
    // The reference gateway counts whatever it does not name as administration.
    'operator.admin',
    NO_CHANNELS,
    Type.Object({
      to: NonEmpty,
      question: NonEmpty,
      options: Type.Array(NonEmpty, { minItems: 2, maxItems: 12 }),
      channel: Account,
      idempotencyKey: IdempotencyKey,
    }),
  ),
  'web.login.start': refused(
    'operator.admin',
    NO_CHANNELS,
    Type.Object({ force: Flag, timeoutMs: Type.Optional(Milliseconds), verbose: Flag, accountId: Account }),
  ),
  'web.login.wait': refused(
    'operator.admin',
    NO_CHANNELS,
    Type.Object({ timeoutMs: Type.Optional(Milliseconds), accountId: Account }),
  ),
  'skills.install': refused(
    'operator.admin',
    NO_SKILLS,
    Type.Object({ name: NonEmpty, installId: NonEmpty, timeoutMs: Type.Optional(Type.Integer({ minimum: 1_000 })) }),
  ),
  'skills.update': refused(
    'operator.admin',
    NO_SKILLS,
    Type.Object({
      skillKey: NonEmpty,
      enabled: Flag,
      apiKey: Type.Optional(Type.String()),
      env: Type.Optional(Open),
    }),
  ),
  'tts.enable': refused('operator.write', NO_SPEECH, Type.Object({})),
  'tts.convert': refused(
    'operator.write',
    NO_SPEECH,
    Type.Object({ text: Type.Optional(Type.String()), channel: Account }),
  ),
  'tts.setProvider': refused('operator.write', NO_SPEECH, Type.Object({ provider: Account })),
  'browser.request': refused(
    'operator.write',
    'no browser is driven here; a node that has one takes its commands by node.invoke',
    Type.Object({
      method: Account,
      path: Type.Optional(Type.String()),
      query: Type.Optional(Anything),
      body: Type.Optional(Anything),
      timeoutMs: Type.Optional(Milliseconds),
    }),
  ),
  'update.run': refused(
    'operator.admin',
    'this gateway does not update itself; install the new version, and start it anew',
    Type.Object({
      sessionKey: Account,
      note: Type.Optional(Type.String()),
      restartDelayMs: Type.Optional(Milliseconds),
      timeoutMs: Type.Optional(Type.Integer({ minimum: 1 })),
    }),
  ),
  'wizard.start': refused(
    'operator.admin',
    NO_WIZARD,
    Type.Object({
      mode: Type.Optional(Type.Union([Type.Literal('local'), Type.Literal('remote')])),
      workspace: Type.Optional(Type.String()),
    }),
  ),
  'wizard.next': refused(
    'operator.admin',
    NO_WIZARD,
    Type.Object({
      sessionId: NonEmpty,
      answer: Type.Optional(Type.Object({ stepId: NonEmpty, value: Type.Optional(Anything) })),
    }),
  ),
  'wizard.cancel': refused('operator.admin', NO_WIZARD, Type.Object({ sessionId: NonEmpty })),
  'wizard.status': refused('operator.admin', NO_WIZARD, Type.Object({ sessionId: NonEmpty })),
}
