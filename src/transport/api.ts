/**
 * What is there for programs over plain HTTP: a table of routes. Each is a request of the wire, sent by a caller that is let in and
 * checked like every other: what may not be done over a WebSocket cannot be done here.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { HttpError } from './http-error.ts'
import { type MessagesNeeds, messageRoutes } from './messages.ts'
import { type OpenaiNeeds, openaiRoutes } from './openai.ts'
import { replyOn } from './reply.ts'
import { toolRoutes } from './tools.ts'
import { createVisits, type Door, type Visits, type VisitsNeeds } from './visits.ts'

export interface Api extends Pick<Visits, 'answered' | 'revoke'> {
  /** Answers a request for one of its paths. False: it is for none of them. */
  answer(path: string, request: IncomingMessage, response: ServerResponse, door: Door): boolean
}

export type ApiNeeds = VisitsNeeds & Omit<MessagesNeeds, 'visits'> & Omit<OpenaiNeeds, 'visits'>

export function createApi(needs: ApiNeeds): Api {
  const visits = createVisits(needs)
  const routes = [
    ...messageRoutes({ ...needs, visits }),
    ...toolRoutes({ visits }),
    ...openaiRoutes({ ...needs, visits }),
  ]

  return {
    answer(path, request, response, door) {
      const found = routes.filter((route) => route.path.test(path))
      if (found.length === 0) return false
      const reply = replyOn(response)
      const refused = ({ tell }: (typeof found)[number], error: HttpError) => {
        const { body, headers } = tell(error)
        reply(error.status, body, { ...error.headers, ...headers })
        return true
      }
      const route = found.find(({ method }) => method === request.method)
      if (!route) {
        const allow = found.map(({ method }) => method).join(', ')
        return refused(found[0]!, new HttpError(405, 'METHOD_NOT_ALLOWED', `use ${allow}`, {}, { allow }))
      }
      // Whoever asks how his message is, is told, as long as anybody is.
      if (door.status === 'starting' || (door.status === 'draining' && request.method !== 'GET')) {
        const message = `the gateway is ${door.status}; come back`
        return refused(route, new HttpError(503, door.status.toUpperCase(), message, {}, { 'retry-after': '2' }))
      }
      const parts = route.path.exec(path)!.slice(1).map(decoded)
      void visits.take({ request, response, door, reply, parts }, route)
      return true
    },
    answered: visits.answered,
    revoke: visits.revoke,
  }
}

/** What no URL can hold stays as it is, and is then the name of nothing. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}
