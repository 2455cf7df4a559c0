/**
 * Runs an image much as Docker does: as process 1 of its own, with the file system read-only, without any privilege. It takes
 * the tools that every Linux has, since runtimes of containers ask more of a machine. Memory and processor are not limited, and
 * the network is that of whoever starts it.
 */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { leave } from '../support/leftovers.ts'
import { type Settings, Unable } from './buildah.ts'

/** What may be run. */
export interface Image {
  rootfs: string
  settings: Settings
}

export interface Bind {
  source: string
  destination: string
  isReadOnly?: boolean
}

export interface ContainerOptions {
  /** Instead of the image's own. */
  command?: string[]
  /** Besides those of the image. */
  env?: Record<string, string>
  binds?: Bind[]
}

export interface Container {
  /** Everything that it has written so far. */
  said(): string
  /** Sends its first process a signal, if it runs. */
  signal(name: 'SIGTERM' | 'SIGKILL'): void
  /** Runs a program beside the first. */
  exec(command: string[]): Promise<{ status: number | null; said: string }>
  /** The status that it ended with; not 0 when a signal ended it. */
  ended: Promise<number>
}

/**
 * Makes the file system of a container, of which nobody else sees anything, and becomes its program. Its arguments: the files of
 * the image; how many binds; source, destination and `ro` or `rw` of each; the program.
 */
const ENTER = `
  set -e
  root=$1; binds=$2; shift 2
  mount --bind "$root" "$root"
  mount -t tmpfs -o nosuid,noexec,mode=755,size=64k tmpfs "$root/dev"
  for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
  mount --bind -o ro /proc/sys "$root/proc/sys"
  mount -t tmpfs -o nosuid,nodev,noexec,mode=1777,size=64m tmpfs "$root/tmp"
  while [ "$binds" -gt 0 ]; do
    [ -d "$1" ] || [ -e "$root$2" ] || touch "$root$2"
    mount --bind "$1" "$root$2"
    mount -o "remount,bind,nosuid,nodev,$3" "$root$2"
    binds=$((binds - 1)); shift 3
  done
  mount -o remount,bind,ro "$root"
  exec chroot "$root" "$@"
`

const STDIO: StdioOptions = ['ignore', 'pipe', 'pipe']

/** Starts a container. It ends with this process at the latest. */
export function startContainer(image: Image, options: ContainerOptions = {}): Container {
  const binds = options.binds ?? []
  const places = binds.flatMap(({ source, destination, isReadOnly }) => [source, destination, isReadOnly ? 'ro' : 'rw'])
  const program = programOf(image, options)
  const child = spawn(
    'unshare',
    [
      ...['--mount', '--pid', '--ipc', '--uts', '--fork', '--kill-child', '--propagation', 'private'],
      ...['sh', '-c', ENTER, 'sh', image.rootfs, String(binds.length), ...places, ...program],
    ],
    { stdio: STDIO },
  )
  const gone = leave(() => child.kill('SIGKILL'))
  const said = listenTo(child)
  const ended = once(child, 'close').then(([code]) => {
    gone()
    return Number(code ?? 128)
  })
  return {
    said,
    ended,
    signal(name) {
      if (child.exitCode === null && child.signalCode === null) process.kill(firstProcess(child), name)
    },
    async exec(command) {
      const inside = ['--target', String(firstProcess(child)), '--mount', '--pid', '--ipc', '--uts']
      const program = programOf(image, { ...options, command })
      const beside = spawn('nsenter', [...inside, 'chroot', image.rootfs, ...program], { stdio: STDIO })
      const said = listenTo(beside)
      const [status] = (await once(beside, 'close')) as [number | null]
      return { status, said: said() }
    },
  }
}

/** A command as the image's user, in its folder and its environment, and without any privilege. */
function programOf({ settings }: Image, { command = settings.Cmd, env = {} }: ContainerOptions): string[] {
  const [uid = '', gid = ''] = settings.User.split(':')
  const variables = [...settings.Env, ...Object.entries(env).map(([name, value]) => `${name}=${value}`)]
  return [
    ...['setpriv', '--reuid', uid, '--regid', gid, '--clear-groups'],
    ...['--bounding-set=-all', '--inh-caps=-all', '--no-new-privs', '--'],
    ...['env', '-i', `--chdir=${settings.WorkingDir}`, ...variables, ...command],
  ]
}

/** What the machine calls process 1 of a container. */
function firstProcess({ pid }: ChildProcess): number {
  const [first = ''] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')
  if (first === '') throw new Error('the container has ended')
  return Number(first)
}

function listenTo({ stdout, stderr }: ChildProcess): () => string {
  let text = ''
  for (const stream of [stdout!, stderr!])
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
  return () => text
}

/** @throws Unable when no containers are run here */
export async function tryContainer(image: Image): Promise<void> {
  const container = startContainer(image, { command: ['/bin/true'] })
  if ((await container.ended) !== 0) throw new Unable(`no containers are run here: ${container.said().trim()}`)
}
