/** The charts that are drawn, toured and checked: a new one is one row here. */
import type { AnyStateMachine } from 'xstate'
import { approvalMachine } from '../../machines/approval.ts'
import { clientMachine } from '../../machines/client.ts'
import { connectionMachine } from '../../machines/connection.ts'
import { gatewayMachine } from '../../machines/gateway.ts'
import { invocationMachine } from '../../machines/invocation.ts'
import { pairingMachine } from '../../machines/pairing.ts'
import { runMachine } from '../../machines/run.ts'
import { scheduleMachine } from '../../machines/schedule.ts'
import { sessionMachine } from '../../machines/session.ts'
import { standbyMachine } from '../../machines/standby.ts'
import { supervisorMachine } from '../../machines/supervisor.ts'
import { toolServerMachine } from '../../machines/tool-server.ts'

export const CHARTS: { [name: string]: AnyStateMachine } = {
  gateway: gatewayMachine,
  connection: connectionMachine,
  supervisor: supervisorMachine,
  session: sessionMachine,
  run: runMachine,
  client: clientMachine,
  pairing: pairingMachine,
  approval: approvalMachine,
  invocation: invocationMachine,
  standby: standbyMachine,
  'tool-server': toolServerMachine,
  schedule: scheduleMachine,
}
