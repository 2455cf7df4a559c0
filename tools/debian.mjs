// Brings Debian packages that suites need, where it may; says which suites are skipped where it may not.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

/**
 * Installs what is missing, as root on Debian; elsewhere a line for each says what is skipped.
 * @param {{ name: string, file: string, suite: string }[]} packages the file that shows a package is there, and what is
 *   skipped without it
 */
export function bringPackages(packages) {
  const missing = packages.filter(({ file }) => !existsSync(file))
  if (missing.length === 0) return
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
  const apt = (args, stderr) => spawnSync('apt-get', args, { env, stdio: ['ignore', 'ignore', stderr] }).status === 0
  const install = ['install', '-y', '-qq', '--no-install-recommends', ...missing.map(({ name }) => name)]
  const debian = existsSync('/etc/debian_version') && process.getuid?.() === 0
  // The lists of packages are fetched only when those that are there do not do.
  const installed = debian && (apt(install, 'ignore') || (apt(['update', '-qq'], 'inherit') && apt(install, 'inherit')))
  if (installed) return
  for (const { name, suite } of missing) console.log(`skipped: ${suite} (Debian package ${name} is not installed)`)
}
