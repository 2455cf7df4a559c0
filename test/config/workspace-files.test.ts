import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { listFiles, readFile, writeFile } from '../../src/config/workspace-files.ts'
import { folder } from './folder.ts'

const MIB = 1_048_576
const refusal = (kind: string, words: RegExp | string = '') =>
  expect.objectContaining({ kind, message: words === '' ? expect.any(String) : expect.stringMatching(words) })
const textOf = (...at: string[]) => readFileSync(path.join(...at), 'utf8')

describe('the files of a workspace', () => {
  it('are listed whether they are there or not, and no others', async () => {
    const workspace = folder({ 'SOUL.md': 'söul', 'OTHER.md': 'x', 'USER.md/x': '' })
    const files = await listFiles(workspace)
    expect(files.map(({ name }) => name).join(' ')).toBe(
      'AGENTS.md SOUL.md TOOLS.md IDENTITY.md USER.md HEARTBEAT.md BOOTSTRAP.md MEMORY.md CLAUDE.md',
    )
    const file = path.join(workspace, 'SOUL.md')
    const updatedAtMs = Math.floor(statSync(file).mtimeMs)
    expect(files[1]).toEqual({ name: 'SOUL.md', path: file, missing: false, size: 5, updatedAtMs })
    expect(files[0]).toEqual({ name: 'AGENTS.md', path: path.join(workspace, 'AGENTS.md'), missing: true })
    expect(files.filter(({ missing }) => !missing)).toHaveLength(1)
  })

  it('are read whole, and are missing in words', async () => {
    const workspace = folder({ 'SOUL.md': 'söul\r\n' })
    expect(await readFile(workspace, 'SOUL.md')).toMatchObject({ missing: false, size: 7, content: 'söul\r\n' })
    const file = path.join(workspace, 'USER.md')
    expect(await readFile(workspace, 'USER.md')).toEqual({ name: 'USER.md', path: file, missing: true })
  })

  it.each(['NOTES.md', 'soul.md', '../SOUL.md', './SOUL.md', 'SOUL.md/', 'SOUL.md\0', '/etc/passwd', '__proto__', ''])(
    'are these only, not %j',
    async (name) => {
      const workspace = folder({ 'SOUL.md': 'x' })
      await expect(readFile(workspace, name)).rejects.toEqual(refusal('UNSUPPORTED_FILE', /^unsupported file "/))
      await expect(writeFile(workspace, name, 'y')).rejects.toEqual(refusal('UNSUPPORTED_FILE'))
      expect(readdirSync(workspace)).toEqual(['SOUL.md'])
    },
  )

  it('have at most 1 MiB, counted in bytes', async () => {
    const workspace = folder({ 'USER.md': 'x'.repeat(MIB + 1) })
    await expect(readFile(workspace, 'USER.md')).rejects.toEqual(refusal('FILE_TOO_LARGE', /1048577 bytes/))
    await expect(writeFile(workspace, 'SOUL.md', 'ö'.repeat(MIB / 2 + 1))).rejects.toEqual(refusal('FILE_TOO_LARGE'))
    expect(readdirSync(workspace)).toEqual(['USER.md'])
    expect((await writeFile(workspace, 'SOUL.md', 'ö'.repeat(MIB / 2))).size).toBe(MIB)
  })
})

describe('a file that is written', () => {
  it('is made or replaced, keeps who may read it, and leaves nothing beside it', async () => {
    const workspace = folder({ 'SOUL.md': 'old' })
    const file = path.join(workspace, 'SOUL.md')
    chmodSync(file, 0o640)
    expect(await writeFile(workspace, 'SOUL.md', 'new')).toEqual({
      name: 'SOUL.md',
      path: file,
      missing: false,
      size: 3,
      updatedAtMs: Math.floor(statSync(file).mtimeMs),
      content: 'new',
    })
    expect([textOf(file), statSync(file).mode & 0o777]).toEqual(['new', 0o640])
    await writeFile(workspace, 'USER.md', '')
    expect([textOf(workspace, 'USER.md'), readdirSync(workspace)]).toEqual(['', ['SOUL.md', 'USER.md']])
  })

  it('is one of those that were written at once, whole', async () => {
    const workspace = folder()
    const texts = Array.from({ length: 20 }, (_, n) => `${n}`.repeat(50_000))
    await Promise.all(texts.map((text) => writeFile(workspace, 'MEMORY.md', text)))
    expect(texts).toContain(textOf(workspace, 'MEMORY.md'))
    expect(readdirSync(workspace)).toEqual(['MEMORY.md'])
  })

  it('takes the place of what a link within the workspace leads to', async () => {
    const workspace = folder({ 'deep/real.md': 'old' })
    symlinkSync('deep/real.md', path.join(workspace, 'SOUL.md'))
    expect((await readFile(workspace, 'SOUL.md')).content).toBe('old')
    await writeFile(workspace, 'SOUL.md', 'new')
    expect(textOf(workspace, 'deep/real.md')).toBe('new')
    expect(lstatSync(path.join(workspace, 'SOUL.md')).isSymbolicLink()).toBe(true)
    expect(readdirSync(path.join(workspace, 'deep'))).toEqual(['real.md'])
  })

  it('is found in a workspace that is itself a link', async () => {
    const workspace = folder()
    const link = path.join(folder(), 'link')
    symlinkSync(workspace, link)
    await writeFile(link, 'SOUL.md', 'x')
    expect(textOf(workspace, 'SOUL.md')).toBe('x')
    expect((await readFile(link, 'SOUL.md')).path).toBe(path.join(link, 'SOUL.md'))
  })

  it('does not change another name of the old one', async () => {
    const outside = folder({ 'other.md': 'old' })
    const workspace = folder()
    linkSync(path.join(outside, 'other.md'), path.join(workspace, 'SOUL.md'))
    await writeFile(workspace, 'SOUL.md', 'new')
    expect([textOf(workspace, 'SOUL.md'), textOf(outside, 'other.md')]).toEqual(['new', 'old'])
  })
})

describe('a link out of the workspace', () => {
  it.each([
    ['to a file', 'secret'],
    ['to nothing', 'nothing-yet'],
    ['to a folder', '.'],
  ])('%s is neither listed, read nor written through', async (_, target) => {
    const outside = folder({ secret: 'canary' })
    const workspace = folder()
    symlinkSync(path.join(outside, target), path.join(workspace, 'SOUL.md'))
    const words = /SOUL\.md cannot be (read|written): it is a link (out of the workspace|that leads nowhere)$/
    await expect(readFile(workspace, 'SOUL.md')).rejects.toEqual(refusal('WORKSPACE_UNREADABLE', words))
    await expect(writeFile(workspace, 'SOUL.md', 'x')).rejects.toEqual(refusal('WORKSPACE_UNWRITABLE', words))
    expect((await listFiles(workspace))[1]).toMatchObject({ name: 'SOUL.md', missing: true })
    expect([readdirSync(outside), textOf(outside, 'secret')]).toEqual([['secret'], 'canary'])
  })

  it('whose name begins like the workspace is out of it, too', async () => {
    const parent = folder({ 'souls-of-others/x': 'canary', 'souls/y': '' })
    const workspace = path.join(parent, 'souls')
    symlinkSync('../souls-of-others/x', path.join(workspace, 'SOUL.md'))
    await expect(readFile(workspace, 'SOUL.md')).rejects.toEqual(refusal('WORKSPACE_UNREADABLE', /out of/))
  })
})

describe('what cannot be done', () => {
  it('is said in words: no folder, a folder in the place of a file', async () => {
    const workspace = folder()
    mkdirSync(path.join(workspace, 'SOUL.md'))
    await expect(readFile(workspace, 'SOUL.md')).rejects.toEqual(refusal('WORKSPACE_UNREADABLE', /not a file/))
    await expect(writeFile(workspace, 'SOUL.md', 'x')).rejects.toEqual(refusal('WORKSPACE_UNWRITABLE', /not a file/))
    rmSync(workspace, { recursive: true })
    await expect(writeFile(workspace, 'SOUL.md', 'x')).rejects.toEqual(
      refusal('WORKSPACE_UNWRITABLE', /there is no workspace folder/),
    )
    expect((await listFiles(workspace)).every(({ missing }) => missing)).toBe(true)
  })

  it.skipIf(process.getuid?.() === 0)('is said in words: a folder, or a file, that may not be written', async () => {
    const workspace = folder({ 'SOUL.md': 'old' })
    chmodSync(path.join(workspace, 'SOUL.md'), 0o400)
    await expect(writeFile(workspace, 'SOUL.md', 'x')).rejects.toEqual(refusal('WORKSPACE_UNWRITABLE', /read-only/))
    chmodSync(workspace, 0o500)
    await expect(writeFile(workspace, 'USER.md', 'x')).rejects.toEqual(refusal('WORKSPACE_UNWRITABLE', /read-only/))
    chmodSync(workspace, 0o700)
    writeFileSync(path.join(workspace, 'done'), '')
    expect([textOf(workspace, 'SOUL.md'), readdirSync(workspace).toSorted()]).toEqual(['old', ['SOUL.md', 'done']])
  })
})
