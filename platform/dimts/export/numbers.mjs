// Numbers in words, by a language's tables: dimts.text.numbers and affixed_numbers for the page.
// Dates, times, ranges and phone numbers are refused, so that none is read as something else.

const MAX_RULES_A_NUMBER = 150, WORD = "[\\p{L}\\p{N}_]"
const LEFT_OUT = "here dates, times, ranges and phone numbers have to be written as they are said"

export const escaped = text => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")
export const oneOf = texts =>
  [...texts].sort((a, b) => b.length - a.length).map(escaped).join("|") || "(?!)"
const isLetter = character => /^\p{L}/u.test(character)

// A function that writes a text's numbers in words, if the language has any.
export function numberReader(tables) {
  const own = tables.numbers
  if (!own) return text => text
  const digits = digitsPattern(own), ordinals = oneOf(own.ordinals?.suffixes ?? [])
  const numerals = new RegExp(`(?:${oneOf(Object.keys(own.numerals))})+`, "gu")
  const before = tables.units_before ?? {}, after = tables.units_after ?? {}
  const scales = oneOf(own.scales.map(scale => scale.word))
  const unitBefore = new RegExp(
    `(${oneOf(Object.keys(before))})\\s*(${digits}(?:\\s+(?:${scales})(?!${WORD}))?)`, "gu")
  const unitAfter = new RegExp(`(?<=\\d)\\s?(${oneOf(Object.keys(after))})(?!${WORD})`, "gu")
  const between = new RegExp(`(?<=\\d)(${oneOf(Object.keys(own.between))})(?=\\d)`, "gu")
  const whole = new RegExp(digits, "gu"), marks = escaped(own.clock?.marks ?? "")
  const compound = new RegExp(`\\d\\p{L}*(?: ?[-–—] ?|[/\u2044:.,${marks}])\\d|\\+\\d`, "u")
  const read = tables.affixes === "listed" ? listed(tables, digits, ordinals)
    : simple(tables, digits, ordinals)
  const shares = own.fractions ?? {}, share = (_, whole, mark) => {
    const key = mark.normalize("NFKC").replace("\u2044", "/")
    return ` ${whole ? `${whole} ${shares["+" + key] ?? shares[key]}` : shares[key] ?? mark} `
  }
  return text => {
    text = text.replace(/(\d{1,3})?([¼-¾⅐-⅞])/gu, share)
    text = text.replace(numerals, letters => {
      const value = numeralValue(letters, own.numerals)
      return value <= largest(own) ? `${value}` : letters
    })
    if (compound.test(text.replace(whole, "0")) || /(?<!\d)0\d+[ -]\d/.test(text))
      throw new Error(LEFT_OUT)
    text = text.replace(unitBefore, (_, mark, number) => `${number} ${before[mark]}`)
    text = text.replace(unitAfter, (_, unit) => ` ${after[unit]}`)
    return read(text.replace(between, mark => own.between[mark]))
  }
}

function simple(tables, digits, ordinals) {
  const separate = tables.affixes === "separate", space = separate ? " " : ""
  const end = separate ? `(?!${WORD})` : ""
  const number = new RegExp(`((?<!${WORD})[-−])?(${digits})((?:${ordinals})${end})?`, "gu")
  return text => text.replace(number, (_, minus, value, suffix) =>
    space + numberWords(minus, value, suffix ?? "", tables.numbers) + space)
}

// Listed prefixes and suffixes stay on a number's words; any other letters are words of their own.
function listed(tables, digits, ordinals) {
  const letter = tables.letters_pattern, suffixes = `(?:${oneOf(tables.suffixes)})`
  const factors = tables.syllables?.factors ?? {}, prefixes = new Set(tables.prefixes)
  const whole = new RegExp(`^${suffixes}{1,2}$`, "u")
  const number = new RegExp(`((?<!${WORD})[-−])?(${digits})`
    + `(?:[ -]?(${ordinals})(?=${suffixes}{0,2}(?!${letter})))?(${letter}*)`, "gu")
  const attached = (words, rest) => {
    if (!whole.test(rest)) return `${words} ${rest}`
    const last = factors[words.at(-1)], first = factors[rest[0]]
    const merges = last && first && last[0] === first[0] && last[1] !== first[1]
    return (merges ? words.slice(0, -1) : words) + rest
  }
  return text => text.replace(number, (found, minus, value, suffix, rest, at) => {
    const words = numberWords(minus, value, suffix ?? "", tables.numbers)
    const run = text.slice(0, at).match(/\p{L}*$/u)[0]
    return (run && !prefixes.has(run) ? " " : "") + (rest ? attached(words, rest) : words)
      + (isLetter(text.slice(at + found.length)) ? " " : "")
  })
}

function numberWords(minus, number, suffix, tables) {
  const [digits, ...fractions] = number.split(tables.decimal_separator)
  if (fractions.length > 1) throw new Error(LEFT_OUT)
  const whole = digits.replaceAll(tables.group_separator, ""), value = Number(whole)
  let words = value > largest(tables) || (whole.length > 1 && whole[0] === "0")
    ? eachDigit(whole, tables) : cardinal(value, tables)
  const last = words.split(" ").at(-1), ordinal = tables.ordinals?.words[last]
  if (suffix && !fractions.length && ordinal !== undefined) {
    words = words.slice(0, words.length - last.length) + ordinal
    suffix = ""
  }
  const spoken = [words, ...fractions.map(fraction => eachDigit(fraction, tables))]
  return (minus ? `${tables.minus} ` : "") + spoken.join(` ${tables.point} `) + suffix
}

export function cardinal(number, tables) {
  if (Object.keys(tables.rules ?? {}).length) {
    try {
      return spelled(number, tables.rules)
    } catch {
      return eachDigit(`${number}`, tables)
    }
  }
  if (number < tables.units.length) return tables.units[number]
  let words, rest
  if (number < 100) {
    rest = number % 10
    words = tables.tens[number - rest]
  } else {
    const scale = tables.scales.findLast(scale => scale.value <= number)
    rest = number % scale.value
    words = `${cardinal(Math.floor(number / scale.value), tables)} ${scale.word}`
  }
  return rest ? `${words} ${cardinal(rest, tables)}` : words
}

function spelled(number, rules) {
  let left = MAX_RULES_A_NUMBER
  const sets = Object.fromEntries(Object.entries(rules).map(([name, texts]) => [name,
    Object.entries(texts).map(([key, text]) => {
      const [base, radix = 10] = key.split("/").map(Number)
      let divisor = 1
      while (divisor * radix <= base) divisor *= radix
      return { base, divisor, text }
    }).sort((a, b) => a.base - b.base || a.divisor - b.divisor)]))
  const say = (n, name) => {
    const all = sets[name], i = all.findLastIndex(rule => rule.base <= n)
    if (--left < 0 || i < 0) throw new Error(`no rule for ${n}`)
    const skips = i && all[i].text.includes(">%") && n % all[i].divisor === 0
    const { base, divisor, text } = all[skips && all[i].base % all[i].divisor ? i - 1 : i]
    const parts = { "<": Math.floor(n / divisor), ">": n % divisor, "=": n }
    return text.replace(/([<>=])(%%?[\w-]+)\1/g, (_, kind, set) => say(parts[kind], set))
  }
  return say(number, Object.keys(rules)[0]).split(/\s+/).filter(Boolean).join(" ")
}

function numeralValue(text, numerals) {
  const top = Math.max(...Object.values(numerals)), terms = []
  for (const letter of text) {
    let value = numerals[letter]
    if (value >= 100) {
      let count = 0
      while (terms.length && (value === top || terms.at(-1) < value)) count += terms.pop()
      value *= Math.max(count, 1)
    }
    terms.push(value)
  }
  return terms.reduce((total, term) => total + term, 0)
}

function digitsPattern({ group_separator, decimal_separator }) {
  const [group, point] = [group_separator, decimal_separator].map(escaped)
  const indian = `\\d{1,2}(?:${group}\\d{2})+${group}\\d{3}(?!\\d)`
  return `(?:\\d{1,3}(?:${group}\\d{3})+(?!\\d)|${indian}|\\d+)(?:${point}\\d+)*`
}

const largest = ({ rules, scales }) =>
  Object.keys(rules ?? {}).length ? 1e12 - 1 : scales.at(-1).value * 1000 - 1
const eachDigit = (text, { units }) => [...text].map(digit => units[digit]).join(" ")
