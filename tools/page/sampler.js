// What ddpm.sampling does, for one model in a browser: the noise of a seed's images, the grid of steps, and UniPC.
// Numbers are those of the library: what it computes in float32 is rounded by Math.fround or kept in a Float32Array.

// Philox4x32-10 (ddpm.sampling.noise): the four 32-bit words for a counter, an array of four, and a key, one of two.
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter.map(word => word >>> 0), [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(0xd2511f53, c0), low0 = Math.imul(0xd2511f53, c0);
    const high1 = mulHigh(0xcd9e8d57, c2), low1 = Math.imul(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0];
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

// The upper 32 bits of the product of two words, out of products of 16 bits by 32, which doubles hold exactly.
function mulHigh(a, b) {
  b >>>= 0;
  const low = (a & 0xffff) * b;
  const middle = (a >>> 16) * b + Math.floor(low / 0x10000);
  return Math.floor(middle / 0x10000) | 0;
}

// Standard normal noise, a Float32Array of `count`: draw number `draw` of image `image` of `seed`, by Box and Muller.
export function normal(seed, image, draw, count) {
  const { fround, log, sqrt, cos, sin, PI } = Math;
  const noise = new Float32Array(4 * Math.ceil(count / 4)), turn = fround(2 * PI * 2 ** -32);
  for (let block = 0; 4 * block < count; block++) {
    const words = philox([block, image, draw, 0], [seed, 0]);
    for (let pair = 0; pair < 4; pair += 2) {
      const radius = fround(sqrt(fround(-2 * fround(log(fround(fround(words[pair]) + 1) * 2 ** -32)))));
      const angle = fround(fround(words[pair + 1]) * turn);
      noise[4 * block + pair] = radius * fround(cos(angle));
      noise[4 * block + pair + 1] = radius * fround(sin(angle));
    }
  }
  return noise.subarray(0, count);
}

// S+1 steps falling from T to 0 (ddpm.sampling.grid), spaced as in "karras".
export function timestepGrid(alphaBar, numSteps) {
  const halfLogSnr = alphaBar.slice(1).map(a => Math.log(a / (1 - a)) / 2).filter(Number.isFinite), last = alphaBar.length - 1;
  const least = Math.exp(-halfLogSnr[0] / 7), most = Math.min(Math.exp(-halfLogSnr.at(-1) / 7), 80 ** (1 / 7)), rising = [0];
  for (let i = 0; i < numSteps - 1; i++) {
    const wanted = -7 * Math.log(least + ((most - least) * i) / (numSteps - 1));
    let t = 1;
    while (t < halfLogSnr.length && (halfLogSnr[t - 1] + halfLogSnr[t]) / 2 > wanted) t++;
    rising.push(t);
  }
  rising.push(last);
  for (let i = 1; i <= numSteps; i++) rising[i] = Math.max(rising[i], rising[i - 1] + 1);
  return rising.map((step, i) => Math.min(step, last - (numSteps - i))).reverse();
}

// UniPC-2 (ddpm.sampling.samplers.unipc): from x, a Float32Array of any shape, over the grid. `ask(x, t)` promises x0_hat.
// Yields { t, x, x0 } for each step; the last x is the image.
export async function* unipc(ask, alphaBar, x, grid) {
  const halfLogSnr = t => Math.log(alphaBar[t] / (1 - alphaBar[t])) / 2;
  // The ODE from t to tPrev for a constant x0.
  const step = (x, x0, t, tPrev) => {
    const ratio = Math.sqrt((1 - alphaBar[tPrev]) / (1 - alphaBar[t]));
    return combine([ratio, x], [Math.sqrt(alphaBar[tPrev]) - ratio * Math.sqrt(alphaBar[t]), x0]);
  };
  let tBefore = grid[0], hBefore = Infinity, ratio = 0, xBefore = x, x0Before = x, d1 = x;
  for (let i = 0; i + 1 < grid.length; i++) {
    const t = grid[i], tPrev = grid[i + 1], x0 = await ask(x, t);
    if (Number.isFinite(hBefore)) {
      const [rho1, rho2] = correctorWeights(hBefore, ratio);
      x = step(xBefore, combine([1, x0Before], [rho1, d1], [rho2, x0], [-rho2, x0Before]), tBefore, t);
    }
    const h = halfLogSnr(tPrev) - halfLogSnr(t);
    ratio = Number.isFinite(h) ? h / hBefore : 0;
    d1 = combine([ratio, x0], [-ratio, x0Before]);
    [tBefore, xBefore, x0Before, hBefore] = [t, x, x0, h];
    x = step(x, combine([1, x0], [0.5, d1]), t, tPrev);
    yield { t: tPrev, x, x0 };
  }
}

function correctorWeights(h, ratio) {
  if (ratio === 0) return [0, 0.5];
  const bigB = Math.expm1(-h), phi1 = -bigB / h - 1, phi2 = (-2 * phi1) / h - 1;
  const a1 = (((phi1 - phi2) / bigB) * ratio) / (1 + ratio);
  return [a1, phi1 / bigB - a1];
}

// The sum of weight times array over the terms.
function combine(...terms) {
  return terms[0][1].map((_, i) => terms.reduce((sum, [weight, values]) => sum + weight * values[i], 0));
}
