import torch

from kitspipe.prediction.passes import Ballot


def test_a_network_votes_once_with_the_mean_of_its_passes():
    ballot = Ballot(0.5, networks=2, passes=2)
    for passes in ((0.9, 0.2, 0.9), (0.9, 0.6, 0.0)), ((0.1, 0.5, 0.9), (0.1, 0.5, 0.0)):
        for one in passes:
            ballot.cast(torch.tensor(one)[None, None])
    # Means: 0.9, 0.4, 0.45 and 0.1, 0.5, 0.45.
    assert ballot.votes.tolist() == [[1, 1, 0]]


def test_passes_of_a_single_network_vote_each_and_the_likelier_class_wins():
    ballot = Ballot(0.5, networks=1, passes=2)
    for tumor, cyst in (((0.9, 0.6), (0.1, 0.7)), ((0.7, 0.4), (0.7, 0.1))):
        ballot.cast(torch.tensor([[tumor, cyst]]))
    assert ballot.votes.tolist() == [[2, 0]]
