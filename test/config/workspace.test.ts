import { execFileSync } from 'node:child_process'
import { renameSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { identity, systemPrompt } from '../../src/config/workspace.ts'
import { folder } from './folder.ts'

describe('the system prompt', () => {
  it('joins the files in their order, each under its name, and skips what is missing or empty', () => {
    const workspace = folder({
      'CLAUDE.md': 'five',
      'SOUL.md': '\uFEFFone\n',
      'AGENTS.md': ' \n',
      'USER.md': 'four',
      'OTHER.md': 'x',
    })
    expect(systemPrompt({ workspace }, 100)).toBe('# SOUL.md\n\none\n\n# USER.md\n\nfour\n\n# CLAUDE.md\n\nfive')
  })

  it('is empty without a workspace, with a missing one, and at zero characters', () => {
    expect(systemPrompt({}, 100)).toBe('')
    expect(systemPrompt({ workspace: path.join(folder(), 'none') }, 100)).toBe('')
    expect(systemPrompt({ workspace: folder({ 'SOUL.md': 'x' }) }, 0)).toBe('')
  })

  it('cuts each file with a mark, never through a character', () => {
    const workspace = folder({ 'SOUL.md': `ab😀${'c'.repeat(50)}`, 'USER.md': 'ö'.repeat(10) })
    expect(systemPrompt({ workspace }, 3)).toBe(
      '# SOUL.md\n\nab\n\n[… SOUL.md is cut here after 2 characters; the file has 56 bytes]\n\n' +
        '# USER.md\n\nööö\n\n[… USER.md is cut here after 3 characters; the file has 20 bytes]',
    )
    expect(systemPrompt({ workspace }, 54)).not.toContain('cut here')
  })

  it('reads no more of a huge file than it shows', () => {
    const workspace = folder({ 'SOUL.md': 'x'.repeat(8_000_000) })
    const prompt = systemPrompt({ workspace }, 1_000_000_000)
    expect(prompt.length).toBeLessThan(4_300_000)
    expect(prompt).toContain('the file has 8000000 bytes]')
  })

  it('is read again when a file changed, came or went', () => {
    const workspace = folder({ 'SOUL.md': 'old' })
    const file = path.join(workspace, 'SOUL.md')
    expect(systemPrompt({ workspace }, 10)).toContain('old')
    writeFileSync(file, 'new')
    utimesSync(file, statSync(file).atime, new Date(Date.now() + 5_000))
    expect(systemPrompt({ workspace }, 10)).toContain('new')
    writeFileSync(path.join(workspace, 'next'), 'now')
    renameSync(path.join(workspace, 'next'), file)
    expect(systemPrompt({ workspace }, 10)).toContain('now')
    expect(systemPrompt({ workspace }, 2)).toContain('no\n\n[…')
    rmSync(file)
    expect(systemPrompt({ workspace }, 10)).toBe('')
  })

  it('refuses links out of the workspace, pipes and folders, and says so once', () => {
    const outside = folder({ secret: 'canary' })
    const workspace = folder({ inside: 'fine', 'CLAUDE.md/x': '' })
    symlinkSync(path.join(outside, 'secret'), path.join(workspace, 'SOUL.md'))
    symlinkSync('inside', path.join(workspace, 'IDENTITY.md'))
    symlinkSync('/nowhere', path.join(workspace, 'AGENTS.md'))
    execFileSync('mkfifo', [path.join(workspace, 'USER.md')])
    const refused: string[] = []
    const told = (file: string, why: string) => void refused.push(`${path.basename(file)}: ${why}`)
    expect(systemPrompt({ workspace }, 100, told)).toBe('# IDENTITY.md\n\nfine')
    expect(systemPrompt({ workspace }, 100, told)).toBe('# IDENTITY.md\n\nfine')
    expect(refused).toEqual([
      'SOUL.md: it is a link out of the workspace',
      'USER.md: it is not a file',
      'CLAUDE.md: it is not a file',
    ])
  })

  it('does not take a folder for the workspace because its name begins alike', () => {
    const home = folder({ 'work-other/secret': 'canary', 'work/x': '' })
    symlinkSync('../work-other/secret', path.join(home, 'work/SOUL.md'))
    expect(systemPrompt({ workspace: path.join(home, 'work') }, 100)).toBe('')
  })

  it('follows a workspace that is itself a link', () => {
    const home = folder({ 'real/SOUL.md': 'soul' })
    symlinkSync('real', path.join(home, 'link'))
    expect(systemPrompt({ workspace: path.join(home, 'link') }, 100)).toBe('# SOUL.md\n\nsoul')
  })
})

describe('the identity', () => {
  it('is the configured name and its first letter', () => {
    expect(identity({ name: 'Kublai' })).toEqual({ name: 'Kublai', avatar: 'K' })
    expect(identity({ name: 'ögedei', workspace: folder() })).toEqual({ name: 'ögedei', avatar: 'Ö' })
  })

  it.each([
    ['Name: Möngke\nEmoji: 🦊', 'Möngke', '🦊'],
    ['# Who\n\n- **Name:** Möngke\n- **Emoji:** 👩‍🚀 astronaut', 'Möngke', '👩‍🚀'],
    ['* **Name**: _Möngke_\r\n', 'Möngke', 'M'],
    ['- **Name:**\n  *(pick something you like)*\n- **Emoji:** *(your signature)*', 'Kublai', 'K'],
    ['Nickname: X\nThe name: Y', 'Kublai', 'K'],
    ['Name: A\u0007\u202EB\nName: second', 'AB', 'A'],
    [`Name: ${'x'.repeat(500)}`, 'x'.repeat(50), 'X'],
  ])('honours IDENTITY.md: %j', (text, name, avatar) => {
    expect(identity({ name: 'Kublai', workspace: folder({ 'IDENTITY.md': text }) })).toEqual({ name, avatar })
  })
})
