from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.overrides import Overrides


class Udop(HFAdapter):
    overrides = Overrides("encoder-decoder", stack="encoder", answers_apart=True, adds_image="after",
                          constants_inside=True, max_batch=1, writes_image_token=False, needs="image")  # fmt: skip

    def process(self, text, images, **options):
        self.tokenizer.sep_token_box = [0, 0, 0, 0]  # on no patch, like the question
        return self.processor(images=images[0], text=text, text_pair=[["."]], boxes=[[[0, 0, 0, 0]]], **options)

    def choice_token_ids(self, prompt, choices):
        return [self.tokenizer.convert_tokens_to_ids(f"▁{choice}") for choice in choices]
