/** What one types: the commands, their options, and what they exit with. */
import { Command, CommanderError, Option } from 'commander'
import { version } from '../version.ts'
import { EXIT } from './exit.ts'
import type { StartFlags } from './gateway.ts'

const WAIT = new Option('--timeout <ms>', 'how long to wait for an answer; 0 = as long as it takes (default: 30000)')
/** A turn has its deadline in the gateway, in the unit that scripts of the reference gateway give it. */
const DEADLINE = new Option('--timeout <seconds>', 'how long the agent may take; 0 = as long as it takes')

/** The options that say which gateway is meant. */
const target = (command: Command, timeout = WAIT): Command =>
  command
    .addOption(new Option('--url <url>', 'the gateway to talk to (default: the one of this state folder)'))
    .addOption(
      new Option(
        '--token <token>',
        'its token (default: from the configuration, OPENCLAW_GATEWAY_TOKEN, or the state folder)',
      ),
    )
    .addOption(
      new Option(
        '--password <password>',
        'its password, in its place (default: from the configuration, or OPENCLAW_GATEWAY_PASSWORD)',
      ),
    )
    .addOption(new Option('--state-dir <folder>', 'the state folder (default: OPENCLAW_STATE_DIR, or ~/.openclaw)'))
    .addOption(timeout)

/** The options that a gateway is started with. */
const startFlags = (command: Command): Command =>
  command
    .option('--bind <where>', 'loopback, lan, auto, custom, or an address')
    .option('--port <number>', 'the port (default 18789)')
    .option('--token <token>', 'the token that clients must show')
    .option('--state-dir <folder>', 'where everything is kept (default: OPENCLAW_STATE_DIR, or ~/.openclaw)')
    .option('--config <file>', 'the configuration file')
    .option('--allow-unconfigured', 'start with defaults when there is no configuration file')

const gather = (line: string, lines: string[]): string[] => [...lines, line]

/** Runs a command line. Sets the exit code; the process ends when nothing is left to do. */
export async function main(argv: string[]): Promise<void> {
  const program = new Command('kurultai')
    .description('A gateway for agents: an actor-model message broker.')
    .version(version)
    .enablePositionalOptions()
    .exitOverride()
    .showHelpAfterError('(--help shows what there is)')

  const gateway = startFlags(
    program.command('gateway').description('start the gateway, or talk to one'),
  ).passThroughOptions(false)
  gateway.action(async (flags: StartFlags) => {
    const { runGateway } = await import('./gateway.ts')
    process.exitCode = await runGateway(flags)
  })
  startFlags(gateway.command('run').description('start the gateway')).action(async (_, command: Command) => {
    const { runGateway } = await import('./gateway.ts')
    process.exitCode = await runGateway(command.optsWithGlobals())
  })
  startFlags(
    gateway
      .command('explain-auth')
      .description('say whether somebody would be let in, and by which rule; looks at no lock-outs')
      .option('--from <address>', 'the address of the socket', '127.0.0.1')
      .option(
        '--header <line>',
        'a header of the upgrade, as "Name: value"; repeatable (Host: localhost:PORT unless said)',
        gather,
        [],
      )
      .option('--credential <kind>', 'absent, wrong, shared, device, named, expired or revoked', 'shared')
      .option('--device <proof>', 'none, valid or invalid', 'none')
      .option('--paired <role:scopes>', 'what the device was paired for, such as operator:operator.read')
      .option('--role <role>', 'operator or node', 'operator')
      .option('--scopes <list>', 'the scopes it asks for, with commas: read, write, …; absent = nothing in particular')
      .option('--holds <list>', 'the scopes of the named token (default: all)')
      .option('--client-id <id>', 'what it calls itself', 'gateway-client')
      .option('--client-mode <mode>', 'and its mode', 'backend')
      .option('--json', 'as JSON'),
  ).action(async (_: object, command: Command) => {
    process.exitCode = (await import('./explain-auth.ts')).explainAuth(command.optsWithGlobals())
  })
  const tokens = program.command('tokens').description('named tokens, which are worth less than the shared one')
  target(
    tokens
      .command('create')
      .description('make a token; its text is shown once')
      .argument('<name>', 'what it is for')
      .requiredOption('--scopes <list>', 'read, write, admin, approvals, pairing; with commas')
      .option('--sessions <patterns>', 'the only sessions it can reach, such as agent:main:*; with commas')
      .option('--expires <span>', 'when it ends by itself: 30m, 12h, 90d')
      .option('--json', 'as JSON'),
  ).action(async (name: string, _: object, command: Command) => {
    process.exitCode = await (await import('./tokens.ts')).createToken(name, command.optsWithGlobals())
  })
  target(tokens.command('list').description('list them, without their text').option('--json', 'as JSON')).action(
    async (_: object, command: Command) => {
      process.exitCode = await (await import('./tokens.ts')).listTokens(command.optsWithGlobals())
    },
  )
  target(
    tokens
      .command('revoke')
      .description('end one; its connections are closed')
      .argument('<id>', 'its id, as listed')
      .option('--json', 'as JSON'),
  ).action(async (id: string, _: object, command: Command) => {
    process.exitCode = await (await import('./tokens.ts')).revokeToken(id, command.optsWithGlobals())
  })
  const talk = () => import('./talk.ts')
  for (const parent of [gateway, program]) {
    target(
      parent
        .command('call')
        .description('call a method of a running gateway and print its answer')
        .argument('<method>', 'for example: health')
        .argument('[params]', 'JSON')
        .option('--params <json>', 'the same')
        .option('--expect-final', 'wait for the second answer of methods that answer twice')
        .option('--json', 'as JSON, which it always is'),
    ).action(async (method: string, params: string | undefined, _: object, command: Command) => {
      const flags = command.optsWithGlobals()
      process.exitCode = await (await talk()).call(method, params ?? flags.params ?? '{}', flags)
    })
    target(parent.command('status').description('show how a gateway is').option('--json', 'as JSON')).action(
      async (_: object, command: Command) => {
        process.exitCode = await (await talk()).status(command.optsWithGlobals())
      },
    )
    target(parent.command('health').description('show whether a gateway is well').option('--json', 'as JSON')).action(
      async (_: object, command: Command) => {
        process.exitCode = await (await talk()).health(command.optsWithGlobals())
      },
    )
    startFlags(
      parent
        .command('doctor')
        .description('check configuration, port, storage and model keys; say how to mend each')
        .option('--json', 'as JSON'),
    ).action(async (_: object, command: Command) => {
      process.exitCode = await (await import('./doctor.ts')).doctor(command.optsWithGlobals())
    })
  }
  target(
    program
      .command('chat')
      .description('talk to an agent; without text, a conversation')
      .argument('[text]', 'what to say')
      .option('--session <key>', 'the session (default: the main session)')
      .option('--agent <name>', 'the agent, by id or name')
      .option('--json', 'print each event as a line of JSON'),
  ).action(async (text: string | undefined, _: object, command: Command) => {
    process.exitCode = await (await import('./chat.ts')).chat(text, command.optsWithGlobals())
  })
  target(
    program
      .command('agent')
      .description('give an agent a turn and print its answer')
      .requiredOption('--message <text>', 'what to say')
      .option('--agent <name>', 'the agent, by id or name')
      .option('--session-id <id>', 'a session by its id')
      .option('--session-key <key>', 'a session by its key')
      .option('--thinking <level>', 'off, minimal, low, medium or high')
      .option('--to <whom>', 'kept with the turn, without effect')
      .option('--channel <name>', 'kept with the turn, without effect')
      .option('--deliver', 'kept with the turn, without effect')
      .option('--json', 'as JSON'),
    DEADLINE,
  ).action(async (_: object, command: Command) => {
    process.exitCode = await (await talk()).agent(command.optsWithGlobals())
  })

  try {
    await program.parseAsync(argv)
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    // Help and version were printed as asked; everything else was used wrongly, and said so.
    process.exitCode = error.exitCode === 0 ? 0 : EXIT.usage
  }
}
