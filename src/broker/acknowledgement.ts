/** What an agent answers that has nothing to say: a word, which nobody hears. */

/** Says that nothing needs attention. */
export const NOTHING_TO_SAY = 'HEARTBEAT_OK'
/** Characters that may stand beside it, by default. */
const MOST_BESIDE = 300

/** Marks that models put around a word: looked for in so many characters at each end, since a pattern may go over them again and again. */
const MOST_MARKS = 200
const BEFORE = /^(?:[\s*_`~]|<[^<>]{0,64}>|&nbsp;)+/
const BEHIND = /(?:[\s*_`~]|<[^<>]{0,64}>|&nbsp;)+$/

const bare = (text: string): string => {
  const begun = text.slice(0, MOST_MARKS).replace(BEFORE, '') + text.slice(MOST_MARKS)
  return begun.slice(0, -MOST_MARKS) + begun.slice(-MOST_MARKS).replace(BEHIND, '')
}

/**
 * What is to be heard of an answer; undefined when it says that there is nothing to say: by the word alone, with marks around it, or
 * with at most so many characters beside it. The word counts at the beginning and at the end.
 */
export function worthHearing(answer: string, mostBeside = MOST_BESIDE): string | undefined {
  const text = answer.trim()
  if (text === '') return undefined
  let rest = bare(text)
  const whole = rest
  if (rest.startsWith(NOTHING_TO_SAY)) rest = bare(rest.slice(NOTHING_TO_SAY.length))
  if (rest.endsWith(NOTHING_TO_SAY)) rest = bare(rest.slice(0, -NOTHING_TO_SAY.length))
  if (rest === whole) return text
  return rest.length <= mostBeside ? undefined : rest
}
