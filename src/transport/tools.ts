/** `POST /tools/invoke`: a tool that an agent has, called by a program. */
import { isJsonObject } from '../contract/json-object.ts'
import { failureOf, HttpError } from './http-error.ts'
import { type Route, readBody, type Visit, type Visits } from './visits.ts'

export function toolRoutes({ visits }: { visits: Visits }): Route[] {
  async function invoke(visit: Visit): Promise<void> {
    const caller = await visits.callerOf(visit)
    const { tool, args = {}, sessionKey, agentId } = await readBody(visit)
    if (typeof tool !== 'string' || tool.trim() === '')
      throw new HttpError(400, 'INVALID_PARAMS', 'tools.invoke requires body.tool')
    const params = {
      name: tool.trim(),
      arguments: args,
      ...(sessionKey !== undefined && { sessionKey }),
      ...(agentId !== undefined && { agentId }),
    }
    const end = await visits.call(caller, 'tools.call', params).last
    if (!end.ok) throw failureOf(end)
    const { text, isError } = end.payload as { text: string; isError: boolean }
    if (isError) throw new HttpError(400, TOOL_ERROR, text)
    visit.hold(text.length)
    const details = detailsIn(text)
    visit.reply(200, { ok: true, result: { content: [{ type: 'text', text }], ...(details && { details }) } })
  }

  return [{ method: 'POST', path: /^\/tools\/invoke$/, handle: invoke, tell }]
}

const TOOL_ERROR = 'TOOL_ERROR'

/** As clients of the reference know it; `code` says more. */
const tell: Route['tell'] = ({ status, code, message }) => ({
  body: {
    ok: false,
    error: { type: typeOf(status, code), message: status === 401 ? 'Unauthorized' : message, code },
  },
})

function typeOf(status: number, code: string): string {
  if (code === TOOL_ERROR) return 'tool_error'
  switch (status) {
    case 401:
      return 'unauthorized'
    case 403:
      return 'forbidden'
    case 404:
      return 'not_found'
    case 429:
      return 'rate_limited'
    default:
      return status < 500 ? 'invalid_request_error' : 'api_error'
  }
}

/** What a tool said, where that is the JSON of an object: programs need not read it twice. */
function detailsIn(text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isJsonObject(value) ? value : undefined
  } catch {
    return undefined
  }
}
