"""The Caller: what a Lamorel script asks its models through."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from llmgym.compat.lamorel.calls import Call, CloseCall, GenerateCall, PassCall, UpdateCall, answer_calls
from llmgym.compat.lamorel.extensions import BaseModelInitializer, BaseUpdater
from llmgym.compat.lamorel.group import join_group
from llmgym.compat.lamorel.hooks import functions_by_name, hooks_by_name
from llmgym.compat.lamorel.placing import placements
from llmgym.compat.lamorel.server import LlmSpec
from llmgym.compat.lamorel.settings import read_settings
from llmgym.host.host import Host
from llmgym.host.inputs import Candidates, PassOptions
from llmgym.host.rows import SCORE

__all__ = ["Caller"]

_LOGGER = logging.getLogger("llmgym.compat.lamorel")


class Caller:
    """Language models that score, generate, run module functions and learn, behind one object.

    A model that one process serves is served by this one; several are spawned. The signatures are those of Lamorel's
    main branch, with the additions of v0.3 behind them.
    """

    def __init__(
        self,
        config: Any,
        custom_updater: BaseUpdater | Mapping[str, BaseUpdater] | None = None,
        custom_module_functions: Mapping[str, Any] | None = None,
        custom_model_initializer: BaseModelInitializer | Mapping[str, BaseModelInitializer] | None = None,
    ) -> None:
        """Load the models.

        Args:
            config: the node `lamorel_args` of the configuration.
            custom_updater: updates the model; by the model's name where there are several.
            custom_module_functions: key to module function; such by the model's name where there are several.
            custom_model_initializer: changes the model; by the model's name where there are several.

        Raises:
            ConfigError: the configuration, or what goes with it, cannot be.
            HostError: a model cannot be loaded.
        """
        settings = read_settings(config)
        _LOGGER.setLevel(settings.log_level)
        self._group = join_group(settings.num_rl_processes, settings.timeout_seconds)
        updaters = hooks_by_name(custom_updater, settings, BaseUpdater, "custom_updater")
        initializers = hooks_by_name(
            custom_model_initializer, settings, BaseModelInitializer, "custom_model_initializer"
        )
        functions = functions_by_name(custom_module_functions, settings)
        specs, rank = {}, settings.num_rl_processes
        for name, llm in settings.llms.items():
            specs[name] = LlmSpec(
                name, llm, settings.is_v03, rank, functions.get(name, {}), initializers.get(name), updaters.get(name)
            )
            rank += llm.num_processes
        # Of several processes that run the script, the first serves the models; the others' host has none.
        self._host = Host(specs, placements(settings)) if self._group.rank == 0 else Host({})

    def score(
        self,
        contexts: Sequence[Any],
        candidates: Candidates | None = None,
        additional_module_function_keys: Sequence[str] = (),
        pad_contexts: bool = True,
        forced_context_len: int | None = None,
        forced_sequence_len: int | None = None,
        add_eos_on_candidates: bool = False,
        require_grad: bool = False,
        minibatch_size: int | None = None,
        peft_adapter: str | None = None,
        llm_to_call: str | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Return the log-probability of each candidate to follow its context, summed over its tokens.

        Args:
            contexts: texts, or lists of token ids.
            candidates: for each context its candidates.
            additional_module_function_keys: module functions to run with it.
            pad_contexts: whether the contexts of a causal model are padded on the left to one length.
            forced_context_len: length that they are padded to; the longest if None.
            forced_sequence_len: length that contexts with candidates of a causal model are padded to.
            add_eos_on_candidates: whether the end of the sequence counts as a candidate's last token.
            require_grad: whether the answer can be differentiated; only of a model that this process serves.
            minibatch_size: rows of one forward pass; the configuration's if None.
            peft_adapter: name of the adapter that answers, from now on; None leaves the one before.
            llm_to_call: name of the model; may be left out where there is one.
            kwargs: given to the module functions.

        Returns:
            for each context a float32 tensor (num_candidates,) on the CPU; with additional keys a dictionary, the
            score under "__score".

        Raises:
            HostError: the request does not make sense, or a process died.
            PromptError: a context does not fit into the model.
        """
        keys = [SCORE, *additional_module_function_keys]
        options = PassOptions(
            minibatch_size=minibatch_size,
            adapter=peft_adapter,
            add_eos=add_eos_on_candidates,
            pad_contexts=pad_contexts,
            context_length=forced_context_len,
            sequence_length=forced_sequence_len,
            named=kwargs,
        )
        call = PassCall(tuple(keys), contexts, candidates or None, options, llm_to_call, require_grad)
        results: list[dict[str, Any]] = self._ask(call)
        return results if additional_module_function_keys else [result[SCORE] for result in results]

    def custom_module_fns(
        self,
        module_function_keys: Sequence[str],
        contexts: Sequence[Any],
        candidates: Candidates | None = None,
        pad_contexts: bool = True,
        forced_context_len: int | None = None,
        forced_sequence_len: int | None = None,
        add_eos_on_candidates: bool = False,
        require_grad: bool = False,
        minibatch_size: int | None = None,
        peft_adapter: str | None = None,
        llm_to_call: str | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Run module functions over contexts with their candidates, or over contexts alone.

        Args:
            module_function_keys: which functions.
            contexts: see `score`, as for the others.
            candidates: for each context its candidates; one empty candidate each if None.
            pad_contexts: see `score`.
            forced_context_len: see `score`.
            forced_sequence_len: see `score`.
            add_eos_on_candidates: see `score`.
            require_grad: see `score`.
            minibatch_size: see `score`.
            peft_adapter: see `score`.
            llm_to_call: see `score`.
            kwargs: see `score`.

        Returns:
            for each context, key to a tensor (or to several by name) with one entry a candidate.

        Raises:
            HostError: the request does not make sense, or a process died.
            PromptError: a context does not fit into the model.
        """
        options = PassOptions(
            minibatch_size=minibatch_size,
            adapter=peft_adapter,
            add_eos=add_eos_on_candidates,
            pad_contexts=pad_contexts,
            context_length=forced_context_len,
            sequence_length=forced_sequence_len,
            named=kwargs,
        )
        keys = tuple(module_function_keys)
        results: list[dict[str, Any]] = self._ask(
            PassCall(keys, contexts, candidates or None, options, llm_to_call, require_grad)
        )
        return results

    def generate(
        self,
        contexts: Sequence[Any],
        return_logprobs: bool = False,
        peft_adapter: str | None = None,
        llm_to_call: str | None = None,
        **kwargs: Any,
    ) -> list[list[dict[str, Any]]]:
        """Generate texts.

        Args:
            contexts: see `score`.
            return_logprobs: whether log-probabilities are wanted instead of probabilities.
            peft_adapter: see `score`.
            llm_to_call: see `score`.
            kwargs: options of transformers' `generate`.

        Returns:
            for each context a list of dictionaries, one a sequence: "text"; "tokens", int64; "text_probability" and
            "tokens_probability", or "text_logprob" and "tokens_logprob", under the distribution that was sampled
            from, up to and with the end of the sequence; "beam_score" where there are beams.

        Raises:
            HostError: the request does not make sense, or a process died.
            PromptError: a context does not fit into the model.
        """
        generation = {**kwargs, "return_logprobs": return_logprobs}
        answers: list[list[dict[str, Any]]] = self._ask(GenerateCall(contexts, generation, peft_adapter, llm_to_call))
        return answers

    def update(
        self,
        contexts: Sequence[Any],
        candidates: Candidates | None = None,
        llm_to_call: str | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Let the model's updater update it.

        Args:
            contexts: divided among the model's processes.
            candidates: divided with them.
            llm_to_call: see `score`.
            kwargs: given to the updater in every process.

        Returns:
            what `perform_update` returned, one item a process.

        Raises:
            HostError: there is no context, or a process died or met an error.
        """
        returned: list[Any] = self._ask(UpdateCall(contexts, candidates or None, kwargs, llm_to_call))
        return returned

    def close(self, llm_to_call: str | None = None) -> None:
        """End a model's processes, or those of all models; a second call does nothing."""
        if self._group.is_closed:
            return
        self._ask(CloseCall(llm_to_call))
        if llm_to_call is None:
            self._group.leave()

    def get_rl_dist_group(self) -> Any:
        """Return the torch.distributed group of the processes that run the script; None where there is one."""
        return self._group.group

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _ask(self, call: Call) -> Any:
        """Have a call answered, together with those of the other processes that run the script."""
        return self._group.exchange(call, lambda calls: answer_calls(self._host, calls))
