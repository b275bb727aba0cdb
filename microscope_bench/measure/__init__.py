"""From a token store to scores. It needs no model, so a kept store can be measured again."""
