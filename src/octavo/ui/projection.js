// Points of many dimensions in two: principal components, and places whose distances are as alike as can be.

/** The cosine of each pair of vectors, and the vectors made as long as 1. */
export function cosines(vectors) {
  const units = vectors.map((vector) => {
    const length = Math.hypot(...vector) || 1;
    return Float64Array.from(vector, (value) => value / length);
  });
  const n = units.length;
  const matrix = Array.from({ length: n }, () => new Float64Array(n));
  for (let i = 0; i < n; i++) {
    for (let j = i; j < n; j++) {
      let sum = 0;
      for (let k = 0; k < units[i].length; k++) sum += units[i][k] * units[j][k];
      matrix[i][j] = matrix[j][i] = sum;
    }
  }
  return matrix;
}

/** The first two principal components of vectors of length 1, from their cosines: [[x, y], …], and the share they explain. */
export function principal(matrix) {
  const n = matrix.length;
  const means = matrix.map((row) => row.reduce((sum, value) => sum + value, 0) / n);
  const mean = means.reduce((sum, value) => sum + value, 0) / n;
  const gram = matrix.map((row, i) => row.map((value, j) => value - means[i] - means[j] + mean));
  const total = gram.reduce((sum, row, i) => sum + row[i], 0) || 1;
  const [first, second] = [0, 1].map((number) => eigen(gram, number));
  const points = Array.from({ length: n }, (_, i) => [first.vector[i] * Math.sqrt(first.value), second.vector[i] * Math.sqrt(second.value)]);
  return { points, share: (first.value + second.value) / total };
}

/** The largest eigenvalue and its vector by power iteration; they are taken out of the matrix. */
function eigen(gram, number) {
  const n = gram.length;
  let vector = Float64Array.from({ length: n }, (_, i) => Math.sin(1.7 * (i + 1) * (number + 1)) + 0.01);
  let value = 0;
  for (let round = 0; round < 300; round++) {
    const next = gram.map((row) => row.reduce((sum, entry, j) => sum + entry * vector[j], 0));
    const length = Math.hypot(...next);
    if (length < 1e-12) break;
    const grown = Float64Array.from(next, (entry) => entry / length);
    const isDone = Math.abs(length - value) < 1e-9 * length;
    [vector, value] = [grown, length];
    if (isDone) break;
  }
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) gram[i][j] -= value * vector[i] * vector[j];
  return { vector, value };
}

/** Moves points until their distances are near those of the vectors (SMACOF, from where they are). */
export function spread(points, matrix, rounds = 120) {
  const n = points.length;
  const wanted = (i, j) => Math.sqrt(Math.max(0, 2 - 2 * matrix[i][j]));
  let places = points.map(([x, y], i) => [x + 1e-4 * Math.sin(i), y + 1e-4 * Math.cos(i)]);
  for (let round = 0; round < (n > 200 ? rounds / 4 : rounds); round++) {
    places = places.map(([x, y], i) => {
      let [sumX, sumY] = [0, 0];
      for (let j = 0; j < n; j++) {
        if (j === i) continue;
        const [dx, dy] = [x - places[j][0], y - places[j][1]];
        const ratio = wanted(i, j) / (Math.hypot(dx, dy) || 1e-6);
        sumX += places[j][0] + dx * ratio;
        sumY += places[j][1] + dy * ratio;
      }
      return n > 1 ? [sumX / (n - 1), sumY / (n - 1)] : [x, y];
    });
  }
  return places;
}

/** The places of the k nearest others of each, the nearest first. */
export function neighbours(matrix, k) {
  return matrix.map((row, i) => [...row.keys()].filter((j) => j !== i).sort((a, b) => row[b] - row[a]).slice(0, k));
}
