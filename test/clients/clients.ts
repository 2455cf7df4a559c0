/** Every client that is tried, in the order of the table. */
import type { Client } from './client.ts'
import { kurultaiClients } from './kurultai/clients.ts'
import { openaiPackage } from './openai.ts'

export const CLIENTS: Client[] = [...kurultaiClients, openaiPackage]
