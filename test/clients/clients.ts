/** Every client that is tried, in the order of the table. */
import type { Client } from './client.ts'
import { publishedFrames } from './frames.ts'

export const CLIENTS: Client[] = [publishedFrames]
