"""An environment spoken to in text: prompts, histories, actions, wrappers. Knows gymnasium and numpy only."""

from llmgym.text.chat import ChatPrompt
from llmgym.text.chat_wording import ChatWording
from llmgym.text.histories import Histories, History, action_index, actions_of
from llmgym.text.prompt import AppendedPrompt, Prompt, PromptSettings, WindowPrompt, make_prompt
from llmgym.text.score_actions import ScoreActions
from llmgym.text.text_env import TextEnv

__all__ = [
    "AppendedPrompt",
    "ChatPrompt",
    "ChatWording",
    "Histories",
    "History",
    "Prompt",
    "PromptSettings",
    "ScoreActions",
    "TextEnv",
    "WindowPrompt",
    "action_index",
    "actions_of",
    "make_prompt",
]
