"""Compiled rows of variation.py: the taut string for jumps, and banded solves. Imported where used; numba compiles once."""

from __future__ import annotations

import numpy as np

from ._numba import kernel


@kernel()
def taut(x, radius, out):
    """Rows of out: argmin_y |y - x|² / 2 + radius Σ |y[i + 1] - y[i]|.

    From an anchor the string cannot rise faster than the least slope to the top of the tube, nor slower than the largest
    to its bottom: it is straight up to the entry where these cross, which becomes the next anchor. What lies between is
    read again; a row where that is too much goes through the hulls, so that the work stays O(n).
    """
    rows, n = x.shape
    us, ls = np.empty(n + 1), np.empty(n + 1)
    un, ln = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    share = 1 / np.arange(1, n + 1)
    for row in range(rows):
        finite = 0
        for k in range(n):
            v = x[row, k]
            finite += v - v == 0
        if finite < n:
            out[row, :] = np.nan
            continue
        lam = radius[row]
        if not lam > 0:
            out[row, :] = x[row, :]
            continue
        given, found = x[row], out[row]
        start = np.float64(given[0])
        a, o, work = 0, 0.0, 8 * n
        while a < n and work > 0:
            total, length, end = np.float64(given[a]) - start - o * lam, 1.0, n
            top, bottom = total + lam, total - lam
            up = down = a + 1
            for k in range(a + 1, n - 1):
                total += np.float64(given[k]) - start
                length += 1.0
                if total + lam <= top * length:
                    top, up = (total + lam) * share[k - a], k + 1
                    if top <= bottom:
                        end, o = down, -1.0
                        break
                if total - lam >= bottom * length:
                    bottom, down = (total - lam) * share[k - a], k + 1
                    if bottom >= top:
                        end, o = up, 1.0
                        break
            work -= int(length) + 1
            if end < n:
                slope = bottom if o < 0 else top
            elif a == n - 1:
                slope = total
            else:
                slope = (total + (np.float64(given[n - 1]) - start)) / (length + 1.0)
                if slope < bottom:
                    slope, end, o = bottom, down, -1.0
                elif slope > top:
                    slope, end, o = top, up, 1.0
            slope += start
            for i in range(a, end):
                found[i] = slope
            a = end
        if a < n:
            _hulls(x[row], lam, out[row], us, un, ls, ln)


@kernel()
def _hulls(x, lam, out, us, un, ls, ln):
    """One row in O(n), whatever it holds. The string runs from the anchor a, where it stands o·lam above the sums of x. The
    upper hull holds its steepest rise, the lower hull its least, as blocks of equal slope from head to tail.
    """
    n = len(x)
    lam = min(lam, n * (x.max() - x.min()))  # more than that is a constant
    start = np.float64(x[0])
    a, o = 0, 0.0
    uhead = utail = lhead = ltail = 0
    us[0], un[0], ls[0], ln[0] = lam, 1, -lam, 1
    for k in range(1, n):
        v = np.float64(x[k]) - start
        s, m = (v, 1) if k < n - 1 else (v - lam, 1)
        while utail >= uhead and us[utail] * m >= s * un[utail]:
            s, m, utail = s + us[utail], m + un[utail], utail - 1
        utail += 1
        us[utail], un[utail] = s, m
        s, m = (v, 1) if k < n - 1 else (v + lam, 1)
        while ltail >= lhead and ls[ltail] * m <= s * ln[ltail]:
            s, m, ltail = s + ls[ltail], m + ln[ltail], ltail - 1
        ltail += 1
        ls[ltail], ln[ltail] = s, m
        while k == n - 1 or us[uhead] * ln[lhead] <= ls[lhead] * un[uhead]:
            if lhead < ltail and (uhead == utail or ln[lhead] < un[uhead]):  # down the lower hull
                m, end = ln[lhead], -1.0
                us[uhead] -= ls[lhead]
                un[uhead] -= m
                lhead += 1
            elif uhead < utail and (lhead == ltail or un[uhead] < ln[lhead]):
                m, end = un[uhead], 1.0
                ls[lhead] -= us[uhead]
                ln[lhead] -= m
                uhead += 1
            elif k == n - 1 and a < n:
                m, end = n - a, 0.0
            else:
                break
            near = np.float64(x[a])
            total = (end - o) * lam
            for i in range(a, a + m):
                total += np.float64(x[i]) - near
            out[a : a + m] = near + total / m
            a, o = a + m, end


@kernel()
def _sum(a, b, c, d):
    """(a + b) + (c + d) in twice the digits, so that what is left after a heavy block is taken away is right."""
    s = a + c
    t = s - a
    e = (a - (s - t)) + (c - t) + b + d
    r = s + e
    return r, e - (r - s)


@kernel()
def taut_weighted(x, step, out):
    """Rows of out: argmin_y Σ (y - x)² / (2 step) + Σ |y[i + 1] - y[i]|: the string over abscissae Σ 1 / step.

    The hulls are those of ``_hulls``, in twice the digits. They find the blocks with the weights held within 40 decades;
    the values come from the true weights: what has step 0 rules its block, what has an infinite one counts only among its
    like.
    """
    rows, n = x.shape
    us, ue, uh, uf = np.empty(n + 1), np.empty(n + 1), np.empty(n + 1), np.empty(n + 1)
    ls, le, lh, lf = np.empty(n + 1), np.empty(n + 1), np.empty(n + 1), np.empty(n + 1)
    un, ln = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    h, w = np.empty(n), np.empty(n)
    for row in range(rows):
        low, high = np.inf, -np.inf
        whole = True
        for k in range(n):
            v = np.float64(x[row, k])
            low, high, whole = min(low, v), max(high, v), whole and v - v == 0
        if not whole:
            out[row, :] = np.nan
            continue
        span = high - low
        if span == 0:
            out[row, :] = x[row, :]
            continue
        least = 1 / n
        for k in range(n):
            t = np.float64(step[row, k])
            h[k] = 1 / (t / span) if t > 0 else np.inf  # the row is solved at unit span
            if h[k] > 0:
                least = min(least, max(h[k], 1e-15 / n))
        for k in range(n):
            w[k] = min(max(h[k], 1e-15 / n), 1e12) if h[k] > 0 else 1e-10 * least
        start = np.float64(x[row, 0])
        a, o = 0, 0.0
        uhead = utail = lhead = ltail = 0
        us[0], ue[0], uh[0], uf[0], un[0] = 1.0, 0.0, w[0], 0.0, 1
        ls[0], le[0], lh[0], lf[0], ln[0] = -1.0, 0.0, w[0], 0.0, 1
        for k in range(1, n + 1):
            if k < n:
                v = w[k] * ((np.float64(x[row, k]) - start) / span)
                s, e = v, 0.0
                if k == n - 1:
                    s, e = _sum(v, 0.0, -1.0, 0.0)
                g, f, m = w[k], 0.0, 1
                while utail >= uhead and us[utail] * g >= s * uh[utail]:
                    s, e = _sum(s, e, us[utail], ue[utail])
                    g, f = _sum(g, f, uh[utail], uf[utail])
                    m, utail = m + un[utail], utail - 1
                utail += 1
                us[utail], ue[utail], uh[utail], uf[utail], un[utail] = s, e, g, f, m
                s, e = v, 0.0
                if k == n - 1:
                    s, e = _sum(v, 0.0, 1.0, 0.0)
                g, f, m = w[k], 0.0, 1
                while ltail >= lhead and ls[ltail] * g <= s * lh[ltail]:
                    s, e = _sum(s, e, ls[ltail], le[ltail])
                    g, f = _sum(g, f, lh[ltail], lf[ltail])
                    m, ltail = m + ln[ltail], ltail - 1
                ltail += 1
                ls[ltail], le[ltail], lh[ltail], lf[ltail], ln[ltail] = s, e, g, f, m
            while k >= n - 1 or us[uhead] * lh[lhead] <= ls[lhead] * uh[uhead]:
                if k < n and lhead < ltail and (uhead == utail or ln[lhead] < un[uhead]):
                    m, end = ln[lhead], -1.0
                    us[uhead], ue[uhead] = _sum(us[uhead], ue[uhead], -ls[lhead], -le[lhead])
                    uh[uhead], uf[uhead] = _sum(uh[uhead], uf[uhead], -lh[lhead], -lf[lhead])
                    un[uhead] -= m
                    lhead += 1
                elif k < n and uhead < utail and (lhead == ltail or un[uhead] < ln[lhead]):
                    m, end = un[uhead], 1.0
                    ls[lhead], le[lhead] = _sum(ls[lhead], le[lhead], -us[uhead], -ue[uhead])
                    lh[lhead], lf[lhead] = _sum(lh[lhead], lf[lhead], -uh[uhead], -uf[uhead])
                    ln[lhead] -= m
                    uhead += 1
                elif k == n and a < n:
                    m, end = n - a, 0.0
                else:
                    break
                most = 0.0
                for i in range(a, a + m):
                    most = max(most, h[i])
                near, total, mass = np.float64(x[row, a]), 0.0, 0.0
                for i in range(a, a + m):
                    share = 1.0 if h[i] == most else h[i] / most
                    total += share * (np.float64(x[row, i]) - near)
                    mass += share
                if 0 < most < np.inf:
                    total += (end - o) * (span / most)
                for i in range(a, a + m):
                    out[row, i] = x[row, i] if h[i] == np.inf else near + total / mass
                a, o = a + m, end


@kernel()
def banded(bands, rhs, out):
    """Rows of out: the solution of M y = rhs, bands[.., j, i] = M[i, i + j], M positive definite: M = L D Lᵀ."""
    rows, n = rhs.shape
    width = bands.shape[1] - 1
    factor = np.empty((n, width + 1))
    for row in range(rows):
        if row == 0 or bands.shape[0] > 1:
            at = row if bands.shape[0] > 1 else 0
            for i in range(n):
                first = max(0, i - width)
                for j in range(first, i + 1):  # factor[i, i - j] is L[i, j], factor[i, 0] is D[i]
                    v = bands[at, i - j, j]
                    for p in range(max(first, j - width), j):
                        v -= factor[i, i - p] * factor[j, j - p] * factor[p, 0]
                    factor[i, i - j] = v if j == i else v / factor[j, 0]
        for i in range(n):
            v = rhs[row, i]
            for j in range(max(0, i - width), i):
                v -= factor[i, i - j] * out[row, j]
            out[row, i] = v
        for i in range(n - 1, -1, -1):
            v = out[row, i] / factor[i, 0]
            for j in range(i + 1, min(n, i + width + 1)):
                v -= factor[j, j - i] * out[row, j]
            out[row, i] = v
