// Parses JSON; integers of 16 digits and more, such as times in ns, become text, because numbers would round them.
const TEXT_OR_LONG_INTEGER = /"(?:[^"\\]|\\.)*"|(?<=[:,[\s])-?\d{16,}(?=[,}\]\s])/g;

export function parse(bytes) {
  return JSON.parse(bytes.toString().replace(TEXT_OR_LONG_INTEGER, (found) => (found[0] === '"' ? found : `"${found}"`)));
}
