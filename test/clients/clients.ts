/** Every client that is tried, in the order of the table. */
import type { Client } from './client.ts'
import { publishedFrames } from './frames.ts'
import { gatewayClient } from './gateway-client.ts'
import { openclaw96 } from './openclaw-2026.9.6.ts'

export const CLIENTS: Client[] = [openclaw96, gatewayClient, publishedFrames]
