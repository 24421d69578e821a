"""What people upload becomes the same samples, whatever it was packed in."""

import io
import struct
import subprocess
import sys
import zipfile

import av
import numpy as np
import pytest

from octavo.errors import AudioError, RequestError
from octavo.speech import libav
from octavo.speech.decode import decode, read_audio

from .encoded import KINDS, encode, encode_signal, encode_video, opus_silence, signal, wav

each_kind = pytest.mark.parametrize("kind", KINDS)


def decibels(decoded, original):
    """Signal to noise, over the length of the shorter."""
    count = min(len(decoded), len(original))
    noise = decoded[:count] - original[:count]
    return 10 * np.log10(np.sum(original[:count] ** 2) / np.sum(noise**2))


@each_kind
def test_every_format_decodes_to_the_original_at_16_khz(kind):
    samples = read_audio(encode_signal(kind))
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(32000, abs=200)
    assert decibels(samples, signal(2, 16000)) > KINDS[kind][4]


@pytest.mark.parametrize("kind", ["wav", "mp3", "m4a", "flac", "ogg", "webm"])
def test_stereo_is_averaged(kind):
    left = signal(2, KINDS[kind][2])
    samples = read_audio(encode(kind, np.stack([left, 0 * left]), layout="stereo"))
    assert decibels(samples, signal(2, 16000) / 2) > min(KINDS[kind][4], 30)


def test_the_mix_of_full_channels_is_not_louder_than_they_are():
    loud = 1.5 * signal(2, 48000)
    samples = read_audio(encode("flac", np.stack([loud] * 6), layout="5.1"))
    assert 0.8 < np.abs(samples).max() < 1


def test_channels_of_unknown_places_are_averaged():
    tone = 10000 * signal(1, 16000)
    for silent in range(3):
        channels = [0 * tone if channel == silent else tone for channel in range(3)]
        samples = read_audio(wav(np.stack(channels, axis=1), num_channels=3))
        assert decibels(samples, signal(1, 16000) * 10000 / 32768 * 2 / 3) > 50


def test_tags_that_are_no_text_are_no_matter():
    plain = wav(10000 * signal(1, 16000))
    title = "Züri-Lied, 2. Strophe ".encode("latin-1")
    info = b"INFOINAM" + struct.pack("<I", len(title)) + title
    tagged = plain[:12] + b"LIST" + struct.pack("<I", len(info)) + info + plain[12:]
    tagged = tagged[:4] + struct.pack("<I", len(tagged) - 8) + tagged[8:]
    assert (read_audio(tagged) == read_audio(plain)).all()


def test_a_path_bytes_and_a_file_object_are_the_same(tmp_path):
    raw = encode_signal("m4a")
    path = tmp_path / "speech, a:b.bin"  # neither an extension nor a colon means anything
    path.write_bytes(raw)
    expected = read_audio(raw)
    with path.open("rb") as file:
        file.read(100)
        for source in (path, str(path), file, io.BytesIO(raw)):
            np.testing.assert_array_equal(read_audio(source), expected)
        assert not file.closed


class Pipe(io.RawIOBase):
    """Bytes that come once, a few at a time; `read` of them have been asked for."""

    def __init__(self, data):
        self.data, self.num_read = data, 0

    def readable(self):
        return True

    def read(self, size=-1):
        part = self.data[self.num_read : self.num_read + min(size, 1000)]
        self.num_read += len(part)
        return part


@pytest.mark.parametrize("kind", ["wav", "mp3", "ogg", "webm", "flac"])
def test_a_stream_that_cannot_seek_is_read_as_it_comes(kind):
    raw = encode_signal(kind)
    piped, whole = read_audio(Pipe(raw)), read_audio(raw)
    assert 0 <= len(piped) - len(whole) < 500  # the padding of an mp3's end is told only at its end
    np.testing.assert_allclose(piped[: len(whole) - 50], whole[:-50], atol=1e-6)


@pytest.mark.parametrize("chunk_seconds", [0.001, 0.3, 2.0, 30.0])
def test_chunks_are_of_the_length_asked_for_and_join_to_the_whole(chunk_seconds):
    raw = encode_signal("flac", seconds=1.2345)
    chunks = list(decode(raw, chunk_seconds=chunk_seconds))
    assert {len(chunk) for chunk in chunks[:-1]} <= {round(chunk_seconds * 16000)}
    assert 0 < len(chunks[-1]) <= chunk_seconds * 16000
    np.testing.assert_array_equal(np.concatenate(chunks), read_audio(raw))


def test_the_first_of_several_audio_streams_is_decoded():
    raw = encode_video([signal(1, 48000), signal(3, 48000)])
    assert len(read_audio(raw)) == pytest.approx(16000, abs=100)
    assert decibels(read_audio(raw), signal(1, 16000)) > 15


def test_samples_do_not_depend_on_what_was_decoded_before():
    raw = encode_signal("mp3")
    first = read_audio(raw)
    read_audio(encode_signal("ogg"))
    assert read_audio(raw).tobytes() == first.tobytes()


# Limits


def test_the_limit_is_on_what_was_decoded_and_stops_the_decoding():
    pipe = Pipe(opus_silence(600))
    with pytest.raises(AudioError, match=r"^long\.ogg: is longer than 20 s, which is the limit$"):
        list(decode(pipe, max_seconds=20, name="long.ogg"))
    assert pipe.num_read < len(pipe.data) / 10


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_a_file_of_exactly_the_limit_is_within_it(kind):
    assert len(read_audio(encode_signal(kind, seconds=2), max_seconds=2)) == 32000
    with pytest.raises(AudioError, match="limit"):
        read_audio(encode_signal(kind, seconds=2), max_seconds=1.9)


MEASURE = """
import resource, sys
from octavo.errors import AudioError
from octavo.speech.decode import decode
num_samples = 0
try:
    with open(sys.argv[1], "rb") as file:
        for chunk in decode(file, chunk_seconds=10):
            num_samples += len(chunk)
except AudioError:
    pass
print(num_samples / 16000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measure(path, raw):
    """(seconds decoded, the most MiB that its process had)."""
    path.write_bytes(raw)
    result = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    seconds, peak = map(float, result.stdout.split())
    return seconds, peak


def test_memory_does_not_grow_with_the_length(tmp_path):
    """Ten times as long is 80 MiB more of samples, if they were kept."""
    short, short_peak = measure(tmp_path / "short.ogg", opus_silence(140))
    long, long_peak = measure(tmp_path / "long.ogg", opus_silence(1400))
    assert long / short == pytest.approx(10, rel=0.01)
    assert long_peak - short_peak < 12


@pytest.mark.skipif(sys.platform != "linux", reason="where libav is loaded is not known")
def test_memory_does_not_grow_with_what_a_header_claims(tmp_path):
    """A comment of 2 GB, in a file of a few bytes."""
    plain = wav(range(16000))
    comment = b"LIST" + struct.pack("<I", 2**31 - 100) + b"INFOISFT" + struct.pack("<I", 2**31 - 200)
    _, plain_peak = measure(tmp_path / "plain.wav", plain)
    _, forged_peak = measure(tmp_path / "forged.wav", plain[:36] + comment + plain[36:])
    assert forged_peak - plain_peak < 100


# What is refused


def refused(source, **options):
    with pytest.raises(AudioError) as caught:
        read_audio(source, name="x.mp3", **options)
    assert isinstance(caught.value, RequestError)
    message = str(caught.value)
    assert message.startswith("x.mp3: ")
    assert "\n" not in message
    assert len(message) < 300
    return caught.value.reason


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("speech.wav", encode_signal("wav"))
    return file.getvalue()


NOT_AUDIO = {
    "text": b"The birch canoe slid on the smooth planks. " * 100,
    "a zip": zipped(),
    "zeros": bytes(100_000),
    "noise": np.random.default_rng(0).bytes(100_000),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "a header that is cut": encode_signal("wav")[:30],
    "an m4a without its end, where its index is": encode_signal("m4a")[:-500],
    "one byte": b"R",
}


@pytest.mark.parametrize("raw", NOT_AUDIO.values(), ids=NOT_AUDIO)
def test_what_is_no_audio_is_refused_with_the_formats_that_are(raw):
    assert "formats are wav, mp3, m4a" in refused(raw)


@pytest.mark.parametrize("empty", [b"", io.BytesIO(), Pipe(b"")])
def test_an_empty_file_is_refused(empty):
    assert refused(empty) == "is empty"


def test_a_file_without_samples_is_refused():
    assert refused(wav([])) == "holds no audio that can be decoded"


def test_a_video_without_sound_is_refused():
    assert refused(encode_video()) == "has no audio stream, only video"


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac", "ogg", "webm", "aiff"])
def test_of_a_file_that_is_cut_what_is_there_is_used(kind):
    raw = encode_signal(kind, seconds=6)
    whole, cut = read_audio(raw), read_audio(raw[: len(raw) // 2])
    assert 30000 < len(cut) < 60000
    np.testing.assert_allclose(cut[:29000], whole[:29000], atol=1e-6)


@pytest.mark.parametrize("rate", [1, 3999, 384001, 2**31 - 1])
def test_a_sample_rate_that_no_audio_has_is_refused(rate):
    assert refused(wav(range(1000), rate=rate)) == f"its sample rate must be 4000 to 384000 Hz, got {rate}"


@pytest.mark.parametrize("rate", [0, 2**31, 4_000_000_000])
def test_a_sample_rate_that_no_header_may_have_is_refused(rate):
    raw = bytearray(wav(range(1000)))
    raw[24:28] = rate.to_bytes(4, "little")
    refused(bytes(raw))


@pytest.mark.parametrize("num_channels", [9, 64])
def test_too_many_channels_are_refused(num_channels):
    reason = refused(wav(np.zeros(num_channels * 100), num_channels=num_channels))
    assert reason == f"has {num_channels} channels, and at most 8 are supported"


def test_more_channels_than_libav_knows_are_refused():
    refused(wav(np.zeros(100_000), num_channels=1000))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 32768.0])
def test_samples_that_are_no_amplitudes_are_refused_with_their_position(value):
    samples = np.zeros(32000, np.float32)
    samples[8000] = value
    assert f"sample 8000 (at 0.500 s) is {value:g}" in refused(wav(samples))


def test_a_file_of_mostly_damaged_packets_is_refused():
    raw = bytearray(encode_signal("m4a"))
    start, end = raw.index(b"mdat") + 4, raw.index(b"moov") - 4
    raw[start:end] = np.random.default_rng(0).bytes(end - start)
    assert "packets can't be decoded" in refused(bytes(raw))


def test_a_path_that_cannot_be_opened_is_refused(tmp_path):
    assert "No such file" in refused(tmp_path / "nothing.wav")
    assert "Is a directory" in refused(tmp_path)
    assert "null" in refused("a\0b")


@pytest.mark.parametrize("scheme", ["http://127.0.0.1:9/a.wav", "file:{}", "concat:{}", "subfile,,start,0,end,0,,:{}"])
def test_a_url_is_a_path_like_any_other(tmp_path, scheme):
    (tmp_path / "a.wav").write_bytes(encode_signal("wav"))
    assert "No such file" in refused(scheme.format(tmp_path / "a.wav"))


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="a"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n# {}\n",
}


@pytest.mark.parametrize("playlist", PLAYLISTS)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch, playlist, is_known):
    """Nor would it if its format were one of those that are tried."""
    (tmp_path / "a.wav").write_bytes(encode_signal("wav"))
    raw = PLAYLISTS[playlist].format(tmp_path / "a.wav").encode()
    if is_known:
        monkeypatch.setattr(libav, "FORMATS", (*libav.FORMATS, "hls", "concat", "dash", "sdp"))
    refused(raw)


def test_a_codec_that_is_not_listed_is_refused(monkeypatch):
    monkeypatch.setattr("octavo.speech.decode.CODECS", ("pcm_s16le",))
    assert "its codec is mp3float, which is not supported" in refused(encode_signal("mp3"))


class Failing(io.BytesIO):
    def read(self, size=-1):
        raise OSError(5, "Input/output error")


class Overlong(io.BytesIO):
    def read(self, size=-1):
        return bytes(size + 1)


def test_a_file_object_that_misbehaves_is_refused():
    assert refused(Failing(b"abc")) == "can't be read: Input/output error"
    assert "gave no bytes, or more" in refused(Overlong())
    assert "gave no bytes, or more" in refused(io.StringIO("RIFF"))


@each_kind
def test_damage_anywhere_gives_samples_or_an_audio_error(kind):
    rng = np.random.default_rng(5)
    raw = encode_signal(kind, seconds=2.5)
    outcomes = set()
    for round in range(60):
        damaged = bytearray(raw)
        for at in rng.integers(0, min(len(raw), 200 if round % 2 else len(raw)), size=rng.integers(1, 20)):
            damaged[at] = rng.integers(256)
        if round % 3 == 0:
            del damaged[int(rng.integers(1, len(raw))) :]
        try:
            samples = read_audio(bytes(damaged), max_seconds=60)
            assert np.isfinite(samples).all()
            outcomes.add("samples")
        except AudioError:
            outcomes.add("error")
    assert outcomes == {"samples", "error"}


def test_libav_is_silent_about_bad_input(capfd):
    refused(NOT_AUDIO["noise"])
    read_audio(encode_signal("mp3")[:5000])
    assert capfd.readouterr() == ("", "")
    assert av.logging.get_level() is None
