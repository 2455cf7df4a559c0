/** Builds images and opens their files, in a store of its own: nothing is left in that of the machine. */
import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { leave } from '../support/leftovers.ts'

/** What a machine is not able to do. It says nothing about the image. */
export class Unable extends Error {}

/** What an image says about itself. */
export interface Settings {
  User: string
  Env: string[]
  Cmd: string[]
  WorkingDir: string
  Volumes: Record<string, object>
  ExposedPorts: Record<string, object>
  Labels: Record<string, string>
  Healthcheck: { Test: string[] }
}

export interface Images {
  /** Runs buildah and returns what it says; `onFailure` makes the error of what it says when it ends badly. */
  run(args: string[], options?: { minutes?: number; onFailure?(said: string): Error }): string
  /** Opens a new container of an image. It is taken away when this process ends. */
  open(image: string): { name: string; rootfs: string }
  settings(image: string): Settings
}

/**
 * Opens the store in a folder.
 * @throws Unable when nothing can be stored, or mounted, here
 */
export function openImages(folder: string): Images {
  const problems: string[] = []
  // The second copies whole images where the kernel cannot lay one folder over another.
  for (const driver of ['overlay', 'vfs']) {
    const images = storeIn(join(folder, driver), driver)
    try {
      images.open('scratch')
      return images
    } catch (error) {
      problems.push(`${driver}: ${(error as Error).message.trim().split('\n').at(-1)}`)
    }
  }
  throw new Unable(`buildah can keep no images here (${problems.join('; ')})`)
}

function storeIn(folder: string, driver: string): Images {
  mkdirSync(folder, { recursive: true })
  const store = ['--root', join(folder, 'images'), '--runroot', join(folder, 'run'), '--storage-driver', driver]
  const images: Images = {
    run(args, { minutes = 2, onFailure = (said: string) => new Error(`buildah ${args[0]}: ${said}`) } = {}) {
      const { status, stdout, stderr, error } = spawnSync('buildah', [...store, ...args], {
        encoding: 'utf8',
        // Steps run in a chroot: that asks the least of a machine.
        env: { ...process.env, BUILDAH_ISOLATION: 'chroot' },
        timeout: minutes * 60_000,
        maxBuffer: 2 ** 26,
      })
      if (status !== 0) throw onFailure(`${stdout}${stderr}${error ? `\n${error.message}` : ''}`)
      return stdout.trim()
    },
    open(image) {
      const name = images.run(['from', '--pull-never', image])
      leave(() => spawnSync('buildah', [...store, 'rm', name]))
      return { name, rootfs: images.run(['mount', name]) }
    },
    settings(image) {
      const { Docker } = JSON.parse(images.run(['inspect', '--type', 'image', image])) as {
        Docker: { config: Settings }
      }
      return Docker.config
    },
  }
  return images
}
