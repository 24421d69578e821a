#!/bin/sh
# What an image runs, by the words after its name: a server for flags or a model, as vLLM's image does, a command of
# Octavo's or vLLM's, or any other program.
#
#   --model MODEL …           octavo serve --model MODEL …      (also without any words)
#   org/name …, pypi:name …   octavo serve org/name …
#   serve …, run …, octavo …  octavo serve …, octavo run …
#   vllm serve …, python3 -m vllm.entrypoints.openai.api_server …
#   bash, python3 …, /path/to/program …
set -eu

serve() { exec octavo serve --host 0.0.0.0 "$@"; }  # inside a container no other address can be reached

case "${1-}" in
  octavo | vllm) shift ;;
esac
case "${1-}" in
  '' | -h | --help | --version | help) [ $# -gt 0 ] && exec octavo "$@" || serve ;;
  -*) serve "$@" ;;
  serve) shift && serve "$@" ;;
  python | python3)
    case "${2-} ${3-}" in
      '-m vllm.entrypoints.openai.api_server' | '-m vllm.entrypoints.api_server') shift 3 && serve "$@" ;;
    esac
    exec "$@"
    ;;
  *.gguf) serve "$@" ;;  # whatever rights a volume gives to files
  */* | *:*)
    [ -f "$1" ] && [ -x "$1" ] && exec "$@"
    serve "$@"
    ;;
esac
command -v "$1" >/dev/null && exec "$@"
exec octavo "$@"
