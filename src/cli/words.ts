/** What commands say of times, and of each other. */

/** How long something takes, roughly. @param ms milliseconds */
export function duration(ms: number): string {
  const seconds = Math.round(ms / 1000)
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`
  return `${Math.round(seconds / 3600)} h`
}

/** The scripts of a checkout that run these commands. */
const SCRIPTS = new Set(['start', 'chat', 'kurultai'])

/** How one types another command, in the way in which this one was started. */
export const typed = (command: string): string =>
  `${SCRIPTS.has(process.env['npm_lifecycle_event'] ?? '') ? 'npm run -s kurultai --' : 'kurultai'} ${command}`
