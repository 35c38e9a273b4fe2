// JSON whose integers of 16 digits and more, which a number here cannot hold, come as text and stay exact: times in ns.
const TEXT_OR_LONG_INTEGER = /"(?:[^"\\]|\\.)*"|(?<=[:,[\s])-?\d{16,}(?=[,}\]\s])/g;

export function parse(bytes) {
  return JSON.parse(bytes.toString().replace(TEXT_OR_LONG_INTEGER, (found) => (found[0] === '"' ? found : `"${found}"`)));
}
