/** The rooms of the house: who may import what, read from the import lines. The same arrows are drawn in diagrams/house.mmd. */
import { readdirSync, readFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'

const ROOT = resolve(import.meta.dirname, '..')

interface Room {
  /** The question it answers: what belongs in it. */
  answers: string
  /** Rooms and files it may import. */
  uses: string[]
  /** Rooms and files of which it may import types only. */
  knows?: string[]
  /** Packages it may import. What comes with Node is for everyone, unless it is in NO_NODE or BELONGS. */
  packages?: string[]
}

const EVERYTHING = [
  'auth/',
  'broker/',
  'client/',
  'config/',
  'contract/',
  'machines/',
  'methods/',
  'runtimes/',
  'stores/',
  'tools/',
  'transport/',
]

const HOUSE: { [room: string]: Room } = {
  'machines/': {
    answers: 'what may happen, in what order?',
    uses: [],
    // An outcome is what the store keeps of a run: one list of endings, not two.
    knows: ['contract/', 'stores/store.ts'],
    packages: ['xstate', 'immer'],
  },
  'contract/': { answers: 'what may be said?', uses: [], packages: ['typebox'] },
  'config/': {
    answers: 'how is it set?',
    uses: ['contract/'],
    // A configured model is what a runtime is asked for.
    knows: ['runtimes/runtime.ts'],
    packages: ['json5', 'typebox'],
  },
  'auth/': {
    answers: 'who may?',
    // A secret is wrapped from the place where it is read on.
    uses: ['contract/', 'config/secret.ts'],
    // Devices are remembered in the store, through its interface.
    knows: ['stores/store.ts'],
  },
  'stores/': { answers: 'what is remembered?', uses: [], knows: ['contract/'] },
  'runtimes/': {
    answers: 'who answers?',
    uses: [],
    knows: ['contract/', 'config/secret.ts'],
    packages: ['openai', '@anthropic-ai/sdk'],
  },
  'broker/': {
    answers: 'who hears whom?',
    // The interface of the store has its error, which dispatch tells apart from others.
    uses: ['machines/', 'contract/', 'auth/', 'stores/store.ts'],
    knows: ['runtimes/runtime.ts', 'config/config.ts'],
    // When a job is due by an expression and a time zone.
    packages: ['xstate', 'nanoid', 'croner'],
  },
  'methods/': {
    answers: 'what does a request mean?',
    // The ways to answer (`after`, `twice`, `Failure`), what a run that is over said, and the one question about scopes; all
    // else comes as an argument.
    uses: ['contract/', 'broker/dispatch.ts', 'broker/endings.ts', 'broker/hub.ts'],
    knows: [
      'broker/',
      'auth/tokens.ts',
      'stores/store.ts',
      'runtimes/runtime.ts',
      'config/config.ts',
      'config/file.ts',
    ],
    packages: ['nanoid'],
  },
  'transport/': {
    answers: 'how do bytes arrive?',
    // Origins and ranges of addresses are judged at the door, before there is a connection.
    uses: ['contract/', 'broker/', 'auth/', 'config/address.ts'],
    packages: ['ws'],
  },
  'tools/': {
    answers: 'what may an agent do?',
    // Where a run stands in its chain; all else comes as an argument.
    uses: ['contract/', 'broker/chains.ts'],
    knows: ['broker/', 'stores/store.ts', 'runtimes/runtime.ts', 'config/config.ts', 'config/secret.ts'],
    packages: ['typebox', '@modelcontextprotocol/client'],
  },
  'client/': {
    answers: 'how does one connect?',
    uses: ['contract/', 'machines/client.ts'],
    packages: ['xstate'],
  },
  'webchat/': { answers: 'what does one see?', uses: ['contract/', 'client/'], packages: ['lit'] },
  'inspect/': { answers: 'what is it doing?', uses: ['contract/'], knows: ['broker/'], packages: ['xstate'] },
  'cli/': {
    answers: 'what does one type?',
    // `gateway` starts the gateway and `doctor` tries what a start would; both read the configuration, and the token beside it.
    uses: [
      'client/',
      'contract/',
      'gateway.ts',
      'logging.ts',
      'version.ts',
      'auth/token-file.ts',
      // `gateway explain-auth` asks the door and the decision what they would say.
      'auth/decide.ts',
      'transport/door.ts',
      'config/address.ts',
      'config/load.ts',
      'stores/index.ts',
    ],
    knows: ['config/config.ts'],
    packages: ['commander'],
  },
  'gateway.ts': {
    answers: 'how is it all put together?',
    uses: [...EVERYTHING, 'logging.ts', 'version.ts'],
    packages: ['xstate'],
  },
  'logging.ts': { answers: 'where does the log go?', uses: [], knows: ['config/config.ts'], packages: ['pino'] },
  'version.ts': { answers: 'which version is it?', uses: ['package.json'] },
  'index.ts': { answers: 'how does the process start and end?', uses: ['cli/', 'tools/'] },
}

/** Where one finds what only one room has. */
const BELONGS: { [what: string]: string } = {
  ws: 'transport/',
  'node:http': 'transport/',
  'node:https': 'transport/',
  'node:sqlite': 'stores/',
  'node:worker_threads': 'stores/',
  openai: 'runtimes/',
  '@anthropic-ai/sdk': 'runtimes/',
  '@modelcontextprotocol/client': 'tools/',
  croner: 'broker/',
  commander: 'cli/',
  json5: 'config/',
  pino: 'logging.ts',
}

/** Rooms that must run where there is no Node. */
const NO_NODE = ['machines/', 'contract/', 'client/', 'webchat/']

const FORBIDDEN_NAMES = [
  'utils',
  'util',
  'helpers',
  'helper',
  'shared',
  'common',
  'types',
  'type',
  'constants',
  'impl',
  'manager',
  'misc',
]

interface Import {
  file: string
  /** A file of the project, or a package. */
  to: string
  isLocal: boolean
  isType: boolean
}

const files = ['src', 'machines'].flatMap((folder) =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => `${folder}/${file.replaceAll('\\', '/')}`),
)
const source = (file: string) => readFileSync(join(ROOT, file), 'utf8')
const imports = files.flatMap(importsOf)

function importsOf(file: string): Import[] {
  const lines = source(file).matchAll(
    /^(?:import|export)\s+(?<type>type\s)?(?:[^'";]*?\sfrom\s+)?'(?<static>[^']+)'|\bimport\('(?<dynamic>[^']+)'\)/gm,
  )
  return [...lines].map(({ groups }) => {
    const from = (groups!['static'] ?? groups!['dynamic'])!
    const isLocal = from.startsWith('.')
    const to = isLocal ? relative(ROOT, resolve(ROOT, dirname(file), from)).replaceAll('\\', '/') : from
    return { file, to, isLocal, isType: groups!['type'] !== undefined }
  })
}

/** `broker/` for `src/broker/hub.ts`, `gateway.ts` for `src/gateway.ts`. */
function roomOf(file: string): string {
  const [first, ...rest] = file.replace(/^src\//, '').split('/')
  return rest.length > 0 ? `${first}/` : first!
}

const packageOf = (name: string) =>
  name
    .split('/')
    .slice(0, name.startsWith('@') ? 2 : 1)
    .join('/')

/** Whether a list of rooms and files has a file in it. */
const has = (list: string[], file: string) =>
  list.some((entry) => file.replace(/^src\//, '') === entry || roomOf(file) === entry)

/** What is wrong with an import, in words that say where the code belongs; undefined if nothing is. */
function objection({ file, to, isLocal, isType }: Import): string | undefined {
  const room = roomOf(file)
  const { answers, uses, knows = [], packages = [] } = HOUSE[room]!
  const here = `${file} imports ${to}, but ${room} answers "${answers}"`
  if (!isLocal) {
    const name = packageOf(to)
    const owner = BELONGS[to] ?? BELONGS[name]
    if (owner !== undefined && owner !== room && !isType) return `${here}. What needs ${name} belongs in ${owner}`
    if (!isBuiltin(to)) return packages.includes(name) ? undefined : `${here} and may import ${list(packages)} only`
    return NO_NODE.includes(room) ? `${here} and runs without Node. Take it as an argument or an input` : undefined
  }
  if (roomOf(to) === room || has(uses, to) || (isType && has(knows, to))) return undefined
  if (has(knows, to))
    return `${here}. It may know the types of ${roomOf(to)} only: use \`import type\`, take the rest as an argument`
  const other = HOUSE[roomOf(to)]
  return `${here}. ${other ? `Code about "${other.answers}" belongs in ${roomOf(to)}` : 'It lies outside the house'}; here, take what you need as an argument (an interface \`…Needs\`). ${room} may import ${list(uses)}, and types of ${list(knows)}`
}

const list = (names: string[]) => names.join(', ') || 'nothing'

describe('the house', () => {
  test('has a row in the table for every room', () => {
    const rooms = [...new Set(files.map(roomOf))].filter((room) => !HOUSE[room])
    expect(rooms, 'what question does this room answer, and what may it touch? Say so in HOUSE').toEqual([])
  })

  test('lets each room touch only what it may', () => {
    expect(imports.length).toBeGreaterThan(100)
    expect(imports.map(objection).filter((words) => words !== undefined)).toEqual([])
  })

  test('has a gateway that only the command line and tests start', () => {
    const users = imports.filter(({ to }) => to === 'src/gateway.ts').map(({ file }) => roomOf(file))
    expect(users.filter((room) => room !== 'cli/' && room !== 'index.ts')).toEqual([])
  })

  test('has no file that needs itself to be there first', () => {
    expect(cycles(imports.filter(({ isType }) => !isType))).toEqual([])
  })

  test('has no two files that know each other, not even by type', () => {
    expect(cycles(imports)).toEqual([])
  })

  test('loads the client of tool servers only for a configuration that has some', () => {
    const early = files.filter((file) => /^import\s+(?!type\s)[^'";]*?'@modelcontextprotocol\//m.test(source(file)))
    expect(early).toEqual([])
    expect(source('src/tools/mcp.ts')).toContain("await import('@modelcontextprotocol/client')")
  })

  test('names everything: there is no default export', () => {
    const nameless = files.filter((file) => /^export\s+default\b|^export\s*\{[^}]*\bas\s+default\b/m.test(source(file)))
    expect(nameless).toEqual([])
  })

  test('has no drawer for odds and ends', () => {
    const drawers = files.filter((file) => file.split(/[/.]/).some((part) => FORBIDDEN_NAMES.includes(part)))
    expect(drawers, 'name it after what is in it').toEqual([])
  })

  test('spells imports with their ending', () => {
    const bare = imports.filter(({ to, isLocal }) => isLocal && !/\.(ts|mjs|json)$/.test(to))
    expect(bare).toEqual([])
  })
})

describe('diagrams/house.mmd', () => {
  const NODES: { [id: string]: string } = { process: 'cli/', gateway: 'gateway.ts' }
  const room = (id: string) => NODES[id] ?? `${id}/`
  const drawn = [
    ...readFileSync(join(ROOT, 'diagrams/house.mmd'), 'utf8').matchAll(/^ {2}(\w+) (-->|-\..*\.->) (\w+)$/gm),
  ].map(([, from, arrow, to]) => ({ from: room(from!), to: room(to!), isType: arrow !== '-->' }))

  test('draws no arrow that the table forbids', () => {
    const allowed = ({ uses, knows = [] }: Room) => [...uses, ...knows].map((entry) => roomOf(entry))
    expect(drawn.length).toBeGreaterThan(10)
    expect(drawn.filter(({ from, to }) => !allowed(HOUSE[from]!).includes(to))).toEqual([])
  })

  test('draws every room that one may import as a whole', () => {
    const rooms = [...new Set(files.map(roomOf))].filter((name) => name !== 'index.ts')
    const used = new Set(imports.map(({ file, to }) => `${roomOf(file)} ${roomOf(to)}`))
    const expected = rooms.flatMap((from) =>
      HOUSE[from]!.uses.filter((to) => to.endsWith('/') && used.has(`${from} ${to}`)).map((to) => ({
        from,
        to,
        isType: false,
      })),
    )
    for (const arrow of expected) expect(drawn).toContainEqual(arrow)
  })
})

/** The rings of files that import each other, each once. */
function cycles(edges: Import[]): string[] {
  const next = new Map<string, string[]>()
  for (const { file, to, isLocal } of edges) if (isLocal) next.set(file, [...(next.get(file) ?? []), to])
  const found: string[] = []
  const done = new Set<string>()
  function visit(file: string, way: string[]): void {
    const at = way.indexOf(file)
    if (at >= 0) return void found.push([...way.slice(at), file].join(' -> '))
    if (done.has(file)) return
    for (const to of next.get(file) ?? []) visit(to, [...way, file])
    done.add(file)
  }
  for (const file of next.keys()) visit(file, [])
  return found
}
