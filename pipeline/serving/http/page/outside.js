// Files from outside: chosen, dropped, pasted.

export function openFromOutside(stage, input, open) {
  input.addEventListener("change", () => {
    open([...input.files]);
    input.value = "";
  });
  document.addEventListener("dragover", event => {
    event.preventDefault();
    stage.classList.add("over");
  });
  document.addEventListener("dragleave", event => {
    if (!event.relatedTarget) stage.classList.remove("over");
  });
  document.addEventListener("drop", event => {
    event.preventDefault();
    stage.classList.remove("over");
    if (event.dataTransfer.files.length) open([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", event => {
    const files = [...event.clipboardData.files].filter(one => one.type.startsWith("image/"));
    if (files.length) open(files);
  });
}
