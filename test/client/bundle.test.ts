import { build } from 'esbuild'
import { describe, expect, it } from 'vitest'

describe('in a browser', () => {
  it('the client is one file without Node, without the validators, and small', async () => {
    const { metafile, outputFiles } = await build({
      entryPoints: ['src/client/client.ts'],
      bundle: true,
      format: 'esm',
      platform: 'browser',
      minify: true,
      metafile: true,
      write: false,
      logLevel: 'silent',
    })
    const inputs = Object.keys(metafile.inputs)
    const packages = new Set(inputs.map((path) => /node_modules\/([^/]+)/.exec(path)?.[1]).filter(Boolean))
    expect([...packages]).toEqual(['xstate'])
    expect(inputs.filter((path) => path.startsWith('src/') && !path.startsWith('src/client/'))).toEqual([])
    expect(outputFiles.length).toBe(1)
    expect(outputFiles[0]!.contents.length).toBeLessThan(80_000)
  })
})
