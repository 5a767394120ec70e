// The smallest contrast of a text with what is behind it (WCAG 2.1), and which text that is.
() => {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) =>
    channels(color)
      .slice(0, 3)
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
      .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (channels(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [...document.querySelectorAll("body *")]
    .filter((one) => one.offsetHeight && [...one.childNodes].some((node) => node.nodeType === 3 && /[^\s\u00a0]/.test(node.data)))
    .map((one) => {
      const pair = [luminance(getComputedStyle(one).color), luminance(behind(one))].sort((a, b) => b - a);
      return [(pair[0] + 0.05) / (pair[1] + 0.05), one.textContent.trim()];
    })
    .sort((a, b) => a[0] - b[0]);
  return found[0];
}
