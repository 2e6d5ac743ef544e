// What a JavaScript engine computes alike everywhere: integers, floats, strings, big numbers, regular expressions, JSON.
'use strict';
const crypto = require('crypto');
const n = Number(process.argv[2]);

function random(seed) {
  let x = seed >>> 0 || 1;
  return () => { x ^= x << 13; x >>>= 0; x ^= x >>> 17; x ^= x << 5; x >>>= 0; return x; };
}

function matrix(size) {
  const a = Array.from({ length: size }, (_, i) => Float64Array.from({ length: size }, (_, j) => (i * 7 + j * 3) % 11 / 4));
  let sum = 0;
  for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) {
    let cell = 0;
    for (let k = 0; k < size; k++) cell += a[i][k] * a[k][j];
    sum += cell;
  }
  return sum;
}

// The same function with shapes that change, so that what was compiled for one is thrown away for the next.
function area(shape) { return shape.w * shape.h + (shape.d || 0); }
function shapes(rounds) {
  let sum = 0;
  for (let i = 0; i < rounds; i++) {
    const shape = i % 5 === 0 ? { h: i, w: 2 } : i % 7 === 0 ? { w: i, h: 3, d: 1 } : i % 1009 === 0 ? { w: 1.5, h: i } : { w: i, h: 2 };
    sum = (sum + area(shape)) % 1000003;
  }
  return sum;
}

function words(count) {
  const next = random(n + 1);
  const seen = new Map();
  for (let i = 0; i < count; i++) {
    const word = (next() % 4000).toString(36);
    seen.set(word, (seen.get(word) || 0) + 1);
  }
  const text = JSON.stringify([...seen].sort());
  const matches = text.match(/[a-f]\d+"?,/g) || [];
  return crypto.createHash('sha256').update(text).digest('hex').slice(0, 16) + ' ' + matches.length + ' ' + JSON.parse(text).length;
}

function big(count) {
  let a = 1n;
  for (let i = 1; i <= count; i++) a = a * BigInt(i) % ((1n << 521n) - 1n);
  return a.toString(16).slice(0, 24);
}

// Functions that are made at run time.
function made(count) {
  let sum = 0;
  for (let i = 0; i < count; i++) sum = (sum + new Function('x', `return (x * ${i} + ${i % 3}) | 0`)(i)) | 0;
  return sum;
}

console.log('matrix', matrix(60 + 10 * n));
console.log('shapes', shapes(400000 + 50000 * n));
console.log('words', words(60000 + 9000 * n));
console.log('big', big(1500 + 200 * n));
console.log('made', made(400 + 100 * n));
