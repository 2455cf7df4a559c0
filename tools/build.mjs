// Builds dist/: one file to start, the rest in chunks that are loaded when they are needed. Nothing of node_modules is needed
// to run it.
import { spawnSync } from 'node:child_process'
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const dist = join(root, 'dist')

/** The newest change among the files that dist/ is made of, in ms since 1970. */
function newest(path) {
  const stat = statSync(path)
  if (!stat.isDirectory()) return stat.mtimeMs
  return Math.max(stat.mtimeMs, ...readdirSync(path).map((name) => newest(join(path, name))))
}

/** Whether dist/ is missing or older than what it is made of. */
export function stale() {
  try {
    const built = statSync(join(dist, 'meta.json')).mtimeMs
    const sources = ['src', 'machines', 'tools', 'package.json', 'package-lock.json'].map((name) =>
      newest(join(root, name)),
    )
    return Math.max(...sources) > built
  } catch {
    return true
  }
}

/** What the client looks like to a compiler. */
function declare() {
  const options = [
    ...['--ignoreConfig', 'src/client/client.ts', '--declaration', '--emitDeclarationOnly', '--outDir', 'dist/types'],
    ...['--rootDir', '.', '--target', 'es2023', '--lib', 'es2024,esnext.disposable,dom', '--types', ''],
    ...['--module', 'nodenext', '--moduleResolution', 'nodenext', '--strict', '--exactOptionalPropertyTypes'],
    ...['--skipLibCheck', '--rewriteRelativeImportExtensions', '--allowImportingTsExtensions'],
  ]
  const compiler = join(dirname(fileURLToPath(import.meta.resolve('typescript/package.json'))), 'bin/tsc')
  const { status, stdout } = spawnSync(process.execPath, [compiler, ...options], { cwd: root, encoding: 'utf8' })
  if (status !== 0) throw new Error(`the client's types could not be declared:\n${stdout}`)
}

export async function build() {
  const { build: bundle } = await import('esbuild')
  rmSync(dist, { recursive: true, force: true })
  const { metafile } = await bundle({
    absWorkingDir: root,
    entryPoints: { index: 'src/index.ts', 'sqlite-worker': 'src/stores/sqlite-worker.ts' },
    outdir: 'dist',
    chunkNames: 'chunk-[name]-[hash]',
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node22',
    // Packages in CommonJS ask for Node's own modules by `require`, which ESM does not have.
    banner: {
      js: "import { createRequire as createRequireOf } from 'node:module'; const require = createRequireOf(import.meta.url);",
    },
    // ws looks for these two native helpers and goes on without them.
    external: ['bufferutil', 'utf-8-validate'],
    minifySyntax: true,
    sourcemap: true,
    sourcesContent: false,
    legalComments: 'linked',
    metafile: true,
    logLevel: 'warning',
  })
  // The client alone, for Node.js and for browsers: `import { connect } from 'kurultai-gateway/client'`.
  await bundle({
    absWorkingDir: root,
    entryPoints: { client: 'src/client/client.ts' },
    outdir: 'dist',
    bundle: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    minifySyntax: true,
    sourcemap: true,
    sourcesContent: false,
    legalComments: 'linked',
    logLevel: 'warning',
  })
  const packages = new Set(
    Object.keys(metafile.inputs)
      .map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1])
      .filter(Boolean),
  )
  declare()
  writeFileSync(join(dist, 'meta.json'), JSON.stringify({ packages: [...packages].sort() }, null, 2))
  return Object.entries(metafile.outputs)
    .filter(([name]) => name.endsWith('.js'))
    .map(([name, { bytes }]) => ({ name: relative('dist', name), bytes }))
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const outputs = await build()
  const total = outputs.reduce((sum, { bytes }) => sum + bytes, 0)
  console.log(`dist/: ${outputs.length} files, ${Math.round(total / 1024)} kB`)
}
