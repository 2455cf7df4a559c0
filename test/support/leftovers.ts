/** What a test makes outside of its own process, taken away also when that process is ended from outside. */

type TakeAway = () => void

const leftovers = new Set<TakeAway>()

/** Takes something away when this process ends, unless that was done before: what it resolves to says so. */
export function leave(takeAway: TakeAway): () => void {
  if (leftovers.size === 0) watch()
  leftovers.add(takeAway)
  return () => void leftovers.delete(takeAway)
}

/** The last made goes first: a process before the folder it works in. */
function takeAllAway(): void {
  for (const takeAway of [...leftovers].reverse()) takeAway()
  leftovers.clear()
}

let isWatching = false

function watch(): void {
  if (isWatching) return
  isWatching = true
  process.on('exit', takeAllAway)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => {
      takeAllAway()
      process.kill(process.pid, signal)
    })
}
