// Prints the C++ sources in the given folders (not their subfolders), and the given files: the list that binding.gyp builds, so
// that it names no file one by one. CMakeLists.txt globs the same folders.
import { existsSync, readdirSync, statSync } from 'node:fs';

const sources = process.argv.slice(2).flatMap((path) => {
  if (!existsSync(path)) return [];
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path)
    .filter((name) => name.endsWith('.cc'))
    .sort()
    .map((name) => `${path}/${name}`);
});
console.log(sources.join(' '));
